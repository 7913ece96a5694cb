"""The one exception type that means "the user can mend this"."""


class FmctError(Exception):
    """An expected failure, told in one line that names the file or key and the remedy.

    The command line prints the message without a traceback and exits with code 2;
    anything that is not an FmctError is a defect of ours and keeps its traceback.
    """
