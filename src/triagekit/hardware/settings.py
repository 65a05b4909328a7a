"""What a run says about hardware."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from triagekit.settings import Settings


class HardwareSettings(Settings):
    """Which rung of which ladder a run takes. It changes where a run happens, not what it learns."""

    ladder: str = Field("ladder", description="name in configs/hardware/ or path of the ladder of hardware set-ups")
    rung: str = Field(
        "auto",
        description="auto: the best rung that the devices here can serve and the run fits on; none: one process, as "
        "configured; else a rung's name",
    )
    probe: Literal["auto", "always", "never"] = Field(
        "auto", description="two steps on the longest rows in a child process before the run; auto: on GPUs only"
    )
