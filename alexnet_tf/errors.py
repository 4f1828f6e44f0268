"""The one exception that is meant for the person at the keyboard."""


class UserError(ValueError):
    """Something the user can mend: an argument, a path, a data set.

    The message is one line: what was wrong, what was received, what to do. The
    scripts print it without a traceback and exit with code 1.
    """
