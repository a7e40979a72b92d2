"""The one exception that means "your input is at fault, not the program"."""


class InputError(ValueError):
    """Bad input: the text says what is wrong, where, and what to do about it, in one line.

    The command line prints the text and exits with status 2, without a traceback.
    """
