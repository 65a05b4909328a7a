"""A site profile: one YAML that says what a cluster calls its things (`slurm/sites/*.yaml`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from triagekit.cluster.durations import parse_duration
from triagekit.errors import TriageError, did_you_mean
from triagekit.files.resources import find_site, shipped_sites
from triagekit.files.yaml_file import load_yaml
from triagekit.settings import Settings, load_settings

Policy = Literal["best", "soonest", "best-within"]
JobKind = Literal["prepare", "train", "sweep", "evaluate", "score", "compare", "pipeline"]

SITE_PREFIX = "site."
_OPTION = re.compile(r"[a-z][a-z0-9-]*")


class RungPlace(Settings):
    """Where a rung of the ladder (or a kind of job) runs at a site: Slurm's words for one job's request."""

    partition: str | None = Field(None, description="--partition; absent: the cluster's default partition")
    gres: str | None = Field(None, description="--gres of one node, e.g. gpu:a100:2")
    constraint: str | None = Field(None, description="--constraint: node features, e.g. a100_80g")
    qos: str | None = Field(None, description="--qos")
    time_limit: str | None = Field(None, description="--time of one job, e.g. 12h or 4-00:00:00")
    memory: str | None = Field(None, description="--mem of one node, e.g. 64G")
    cpus_per_task: PositiveInt | None = Field(None, description="--cpus-per-task: cores of the one task on each node")
    nodes: PositiveInt | None = Field(None, description="--nodes; absent: what the rung says, else 1")
    options: dict[str, str | int | None] = Field(
        {}, description="any other sbatch option by its long name; a null value is a bare option, e.g. exclusive"
    )

    @field_validator("time_limit")
    @classmethod
    def _is_a_time(cls, value: str | None) -> str | None:
        if value is not None:
            parse_duration(value)
        return value

    @field_validator("time_limit", "memory", mode="before")
    @classmethod
    def _number_as_text(cls, value: Any) -> Any:
        # YAML 1.1 reads `12:00:00` as the number 43200 (base 60): refused, since nobody means 43200 minutes.
        if isinstance(value, int) and not isinstance(value, bool) and value >= 3600:
            raise ValueError(f"YAML read this as the number {value}; put quotes around it, e.g. '12:00:00' or '64000'")
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("options")
    @classmethod
    def _are_long_names(cls, value: dict[str, str | int | None]) -> dict[str, str | int | None]:
        wrong = [name for name in value if not _OPTION.fullmatch(name)]
        if wrong:
            raise ValueError(f"{', '.join(map(repr, wrong))}: write the long name without dashes, e.g. exclusive")
        return value

    def over(self, defaults: RungPlace) -> RungPlace:
        """This place with what it leaves open taken from `defaults`."""
        own = {key: value for key, value in self if value is not None and key != "options"}
        return defaults.model_copy(update={**own, "options": {**defaults.options, **self.options}})


class SiteSettings(Settings):
    """One cluster. Texts that end up in the batch script may hold `$NAME` and `${NAME:-…}`, expanded on the node."""

    name: str = Field(description="how the site is called in `--site`")
    description: str = Field("", description="one line for `triage site list`")
    account: str | None = Field(None, description="--account, where the cluster asks for one")
    defaults: RungPlace = Field(RungPlace.model_validate({}), description="what every place takes unless it says else")
    rungs: dict[str, RungPlace] = Field(description="the rungs of the ladder that this site serves, and where")
    jobs: dict[JobKind, RungPlace] = Field(
        {}, description="places of jobs that do not train: prepare, evaluate, score, compare"
    )
    ladder: str | None = Field(
        None, description="the ladder of rungs: a name in configs/hardware/ or a path; absent: the run's own"
    )
    ladder_overrides: dict[str, Any] = Field(
        {}, description="changes to it: {rungs: {name: {key: value} or null}, add: [{before: name, …}]}"
    )
    shell: str = Field("/bin/bash", description="first line of the script; '/bin/bash --login' where modules need it")
    modules: list[str] = Field([], description="`module load` these, in this order")
    before: list[str] = Field([], description="shell lines run as they stand before the work, e.g. activate an env")
    environment: dict[str, str | int] = Field({}, description="variables set for the work")
    python: str | None = Field(None, description="interpreter on the nodes; absent: the one that submits")
    scratch: str | None = Field(None, description="big, fast, shared folder; caches go below it, never to $HOME")
    cache: str | None = Field(None, description="HF_HOME: where base models lie; absent: <scratch>/huggingface")
    temporary: str = Field("/tmp", description="TMPDIR: a folder on each node's own disk that exists there")
    proxies: dict[str, str] = Field({}, description="variables such as https_proxy, for nodes behind a proxy")
    offline: bool = Field(True, description="compute nodes never look at a hub; fetch on the login node before")
    requeue: Literal["requeue", "successor"] = Field(
        "requeue", description="after preemption or time limit: the job requeues itself, or a job queued before goes on"
    )
    signal_seconds: PositiveInt = Field(120, description="the warning before the time limit; enough for a checkpoint")
    max_restarts: int = Field(20, ge=0, description="restarts of one run before it gives up")
    max_walltime: str | None = Field("14d", description="total time over all restarts of one run")
    policy: Policy = Field("best-within", description="which rung is taken of those that fit, see triage submit --help")
    patience: str = Field("4h", description="for best-within: how long a better rung is worth waiting for")
    max_array_tasks: PositiveInt = Field(4, description="members of an array that run at once")

    @field_validator("patience", "max_walltime")
    @classmethod
    def _is_a_time(cls, value: str | None) -> str | None:
        if value is not None:
            parse_duration(value)
        return value

    @field_validator("proxies", "environment")
    @classmethod
    def _are_variable_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        wrong = [name for name in value if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)]
        if wrong:
            raise ValueError(f"{', '.join(map(repr, wrong))} cannot be the name of a variable")
        return value

    @model_validator(mode="after")
    def _serves_something(self) -> SiteSettings:
        if not self.rungs:
            raise ValueError("rungs is empty: name at least one rung and its partition")
        return self

    @property
    def changes_ladder(self) -> bool:
        """Whether jobs here need another ladder than the run's own."""
        return self.ladder is not None or bool(self.ladder_overrides)

    def serves(self, rung: str) -> bool:
        """Whether the site has a place for this rung."""
        return rung in self.rungs

    def place(self, rung: str) -> RungPlace:
        """Where `rung` runs here, defaults filled in. Raises TriageError naming the nearest rung."""
        if rung not in self.rungs:
            raise TriageError(f"Site {self.name} does not serve the rung '{rung}'. {did_you_mean(rung, self.rungs)}")
        return self.rungs[rung].over(self.defaults)

    def job_place(self, kind: JobKind) -> RungPlace:
        """Where jobs of `kind` run here. Without an own entry: the last rung named, which asks for least."""
        given = self.jobs.get(kind)
        return (given if given is not None else list(self.rungs.values())[-1]).over(self.defaults)

    @property
    def patience_seconds(self) -> int:
        """`patience` in seconds."""
        return parse_duration(self.patience)

    @property
    def max_walltime_seconds(self) -> int | None:
        """`max_walltime` in seconds; None where there is no limit."""
        return None if self.max_walltime is None else parse_duration(self.max_walltime)


def load_site(name_or_path: str, overrides: Sequence[str] = ()) -> SiteSettings:
    """A shipped site by name, or one's own YAML by path, with `key=value` overrides.

    Raises TriageError naming the nearest shipped site, ProblemsError with every mistake in the file.
    """
    return load_settings(SiteSettings, find_site(name_or_path), overrides)


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(words for the configuration, words for the site without their `site.`)."""
    own = [word.removeprefix(SITE_PREFIX) for word in words if word.startswith(SITE_PREFIX)]
    return [word for word in words if not word.startswith(SITE_PREFIX)], own


def list_sites() -> list[tuple[str, str]]:
    """(name, description) of the shipped sites."""
    return [(name, str(load_yaml(find_site(name)).data.get("description", ""))) for name in shipped_sites()]
