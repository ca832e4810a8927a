"""The one exception whose message is meant for the user."""

from collections.abc import Sequence


class UserError(Exception):
    """A mistake that the user can mend: the command line prints the message alone, without a traceback.

    Args:
        message: what is wrong and where.
        hint: what would be right, or what to do next.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}\n{hint}")
        self.message = message
        self.hint = hint


def nearest(name: str, choices: "list[str] | tuple[str, ...] | set[str] | dict") -> str:
    """A hint `did you mean 'x'?`, or the list of choices where nothing is near. Empty without choices."""
    import difflib

    names = sorted(str(choice) for choice in choices)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"choose one of: {listed(names)}" if names else ""


def listed(names: Sequence[str], most: int = 20) -> str:
    """The names, or the first of them and how many there are."""
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")
