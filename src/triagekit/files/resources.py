"""Files that ship with the package: found in the installed wheel, or in the checkout of an editable install."""

from __future__ import annotations

from pathlib import Path

from triagekit.errors import TriageError, did_you_mean

_PACKAGE = Path(__file__).resolve().parent.parent
_CHECKOUT = _PACKAGE.parent.parent


def configs_folder() -> Path:
    """The shipped `configs/` folder: inside the package for a wheel, at the top of the checkout otherwise."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _CHECKOUT / "configs"


def shipped_names(room: str) -> list[str]:
    """Names (without `.yaml`) of the shipped files in `configs/<room>/`."""
    return sorted(path.stem for path in (configs_folder() / room).glob("*.yaml"))


def find_config(room: str, name_or_path: str) -> Path:
    """A YAML by path (anything with a slash or an ending) or by shipped name, e.g. `("schema", "it_tickets")`.

    Raises TriageError naming the nearest shipped file when there is none.
    """
    given = Path(name_or_path).expanduser()
    if given.is_file():
        return given
    if given.suffix in {".yaml", ".yml"} or len(given.parts) > 1:
        # `configs/schema/it_tickets.yaml` works outside the checkout too: the shipped file of the same name is meant.
        if given.parts[:2] == ("configs", room) and (shipped := configs_folder() / room / given.name).is_file():
            return shipped
        raise TriageError(f"No file at {given}. Shipped {room} files: {', '.join(shipped_names(room))}.")
    path = configs_folder() / room / f"{given.name}.yaml"
    if path.is_file():
        return path
    raise TriageError(
        f"No {room} named '{name_or_path}'. {did_you_mean(name_or_path, shipped_names(room))} "
        f"A file of your own is given by its path, e.g. ./{name_or_path}.yaml"
    )


def sites_folder() -> Path:
    """The shipped `slurm/sites/` folder: inside the package for a wheel, in the checkout otherwise."""
    installed = _PACKAGE / "slurm" / "sites"
    return installed if installed.is_dir() else _CHECKOUT / "slurm" / "sites"


def shipped_sites() -> list[str]:
    """Names of the shipped site profiles."""
    return sorted(path.stem for path in sites_folder().glob("*.yaml"))


def find_site(name_or_path: str) -> Path:
    """A site profile by path (anything with a slash or an ending) or by shipped name, e.g. `csf`.

    Raises TriageError naming the nearest shipped site when there is none.
    """
    given = Path(name_or_path).expanduser()
    is_path = given.suffix in {".yaml", ".yml"} or len(given.parts) > 1
    if is_path and given.is_file():
        return given
    if is_path:
        if given.parts[:2] == ("slurm", "sites") and (shipped := sites_folder() / given.name).is_file():
            return shipped
        raise TriageError(f"No file at {given}. Shipped sites: {', '.join(shipped_sites())}.")
    path = sites_folder() / f"{given.name}.yaml"
    if path.is_file():
        return path
    raise TriageError(
        f"No site named '{name_or_path}'. {did_you_mean(name_or_path, shipped_sites())} "
        f"A site of your own is given by its path, e.g. ./{name_or_path}.yaml "
        f"(start from a copy of {sites_folder()}/generic.yaml)"
    )
