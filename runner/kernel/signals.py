"""signal(7), from the C module that the standard signal module wraps: the enums around it cost each step 3 ms of imports."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as plain
else:
    import _signal as plain

ITIMER_PROF = plain.ITIMER_PROF
SIG_BLOCK = plain.SIG_BLOCK
SIG_DFL = plain.SIG_DFL
SIG_IGN = plain.SIG_IGN
SIG_SETMASK = plain.SIG_SETMASK
SIGALRM = plain.SIGALRM
SIGCHLD = plain.SIGCHLD
SIGCONT = plain.SIGCONT
SIGHUP = plain.SIGHUP
SIGINT = plain.SIGINT
SIGKILL = plain.SIGKILL
SIGPIPE = plain.SIGPIPE
SIGPROF = plain.SIGPROF
SIGQUIT = plain.SIGQUIT
SIGSTOP = plain.SIGSTOP
SIGTERM = plain.SIGTERM
SIGTSTP = plain.SIGTSTP
SIGUSR1 = plain.SIGUSR1
SIGUSR2 = plain.SIGUSR2
SIGWINCH = plain.SIGWINCH
pidfd_send_signal = plain.pidfd_send_signal
pthread_sigmask = plain.pthread_sigmask
setitimer = plain.setitimer
set_wakeup_fd = plain.set_wakeup_fd
signal = plain.signal
