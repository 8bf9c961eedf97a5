"""What can go wrong, as one class per reaction.

    RunnerError          has a message, a hint and an exit code
    ├── UserError        the caller's input is at fault: fix it, trying again changes nothing
    ├── InfraError       the machine, the network or a registry is at fault
    │   └── Temporary    ... and trying again later may help
    │       └── Busy     ... later than we can wait: the other side has said when
    └── Bug              a promise of our own code is broken

A failing job script is none of these: it is a `model.Outcome`.
Only `runner.__main__` and the protocol adapters turn an error into an exit code.
"""


class RunnerError(Exception):
    """A failure with a sentence for people (`message`) and, where one is known, a way out (`hint`)."""

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UserError(RunnerError):
    """The input is wrong: a configuration key, an image name, credentials, a refused option."""

    exit_code = 1


class InfraError(RunnerError):
    """The surroundings failed: a full disk, a missing program, a registry that answers 500."""


class Temporary(InfraError):
    """An `InfraError` that may be gone at the next try."""


class Busy(Temporary):
    """A `Temporary` whose cause has asked us to stay away for longer than a command waits: not to be tried again here."""


class Bug(RunnerError):
    """Our own invariant does not hold; please report it."""

    exit_code = 3
