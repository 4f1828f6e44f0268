"""The one exception that is meant for the person at the keyboard, and its text."""


class UserError(ValueError):
    """Something the user can mend: an argument, a path, a data set.

    The message is one line: what was wrong, what was received, what to do. The
    scripts print it without a traceback and exit with code 1. Names of files and
    classes may stand in it as they are.
    """

    def __init__(self, message: str):
        super().__init__(escape(message))


def escape(text: str) -> str:
    """A text as a terminal or a page can show it, on one line.

    Names of classes and files may hold anything. Characters that would steer a terminal
    are written as escapes.
    """
    return "".join(
        char if char.isprintable() else _escape_character(char) for char in text
    )


def _escape_character(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte of a file's name that is not in UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
