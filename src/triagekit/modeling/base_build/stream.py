"""The pre-training stream: step number in, groups of tokenised rows out. Any step can be made without those before it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Literal

from triagekit.data.generator.catalogue import Family, families
from triagekit.data.generator.tickets import compose
from triagekit.modeling.base_build.settings import CorpusSettings, TinyBaseSettings
from triagekit.modeling.base_build.taxonomies import Taxonomy, make_taxonomy
from triagekit.modeling.segments import SegmentTokenizer, TokenisedExample
from triagekit.modeling.settings import PromptSettings
from triagekit.modeling.template import PromptTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Part = Literal["train", "test"]
# Evaluation takes its taxonomies from far behind those of training.
_UNSEEN = 1_000_000


@dataclass(frozen=True)
class Group:
    """Rows under one prompt prefix. The first `prefix_length` tokens are the same in every row."""

    segments: SegmentTokenizer
    examples: tuple[TokenisedExample, ...]
    texts: tuple[str, ...]
    prefix_length: int


class PretrainingStream:
    """Groups of generated tickets under made-up taxonomies, by the same prompt template and segments as fine-tuning."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: TinyBaseSettings) -> None:
        self._tokenizer = tokenizer
        self._settings = settings
        self._cache: dict[tuple[int, bool], tuple[Taxonomy, SegmentTokenizer]] = {}
        self._pools: dict[tuple[str, Part], list[Family]] = {}
        for family in families():
            self._pools.setdefault((family.language, family.part), []).append(family)

    def step(self, number: int) -> list[Group]:
        """The groups of training step `number`."""
        stage = self._settings.stage_of(number)
        groups = []
        for index in range(stage.groups):
            random = Random(f"step/{self._settings.seed}/{number}/{index}")
            groups.append(self._group(random.randrange(stage.taxonomies), "train", random, stage))
        return groups

    def unseen(self, count: int, taxonomies_too: bool = True) -> list[Group]:
        """Groups of held-out template families, under taxonomies that training never sees or under the last stage's."""
        last = self._settings.stages[-1]
        groups = []
        for index in range(count):
            random = Random(f"unseen/{self._settings.seed}/{index}")
            number = _UNSEEN + index if taxonomies_too else random.randrange(last.taxonomies)
            groups.append(self._group(number, "test", random, self._settings.stages[0] if taxonomies_too else last))
        return groups

    def _group(self, taxonomy_number: int, part: Part, random: Random, stage: CorpusSettings) -> Group:
        taxonomy, segments = self._taxonomy(taxonomy_number, stage.numbered)
        implicit = (part == "train" or stage.numbered) and random.random() < stage.implicit_share
        variant = random.randrange(1, segments.template.variants) if implicit else 0
        tickets = [self._ticket(part, random) for _ in range(stage.rows)]
        examples = tuple(
            segments.encode_example(ticket["text"], taxonomy.record(ticket), variant) for ticket in tickets
        )
        texts = tuple(ticket["text"] for ticket in tickets)
        return Group(segments, examples, texts, len(segments.prefix_ids(variant)))

    def _ticket(self, part: Part, random: Random) -> dict[str, str]:
        language = "es" if random.random() < self._settings.spanish_share else "en"
        return compose(random.choice(self._pools[language, part]), random)

    def _taxonomy(self, number: int, numbered: bool) -> tuple[Taxonomy, SegmentTokenizer]:
        if (number, numbered) not in self._cache:
            taxonomy = make_taxonomy(self._settings.seed, number, numbered)
            prompt = PromptSettings(strategy="mixed", max_length=self._settings.architecture.positions)
            template = PromptTemplate(self._tokenizer, taxonomy.schema, prompt)
            self._cache[number, numbered] = (taxonomy, SegmentTokenizer(self._tokenizer, template))
        return self._cache[number, numbered]
