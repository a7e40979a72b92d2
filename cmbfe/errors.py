"""The exception for errors in the input, as opposed to errors in the program."""


class InputError(ValueError):
    """An error in the input. Its text says in one line what is wrong, where, and what to do about it.

    The command line prints the text and exits with status 2, without a traceback.
    """
