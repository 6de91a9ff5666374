"""How a command starts and ends: under the Python that has the kit's packages; in one line after Ctrl-C.

`toolkit/entry.py` and `solution/entry.py` are equal, because neither folder imports the other. Older Pythons read them
too, 2.7 included.
"""

# ruff: noqa: RUF005, UP032, UP036

import errno
import io
import os
import select
import signal
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_met = []  # signals of Ctrl-C
TRIED = "BETTER_SYNTH_PROCESS"  # the process that has changed its Python already


def begin(packages):
    """Continue under .venv's Python where this one is too old, lacks one of the packages or is conda's base.

    Exits with one line where .venv cannot help. Until `run` takes over, Ctrl-C ends the process at once.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, in a background job
        signal.signal(signal.SIGINT, _stop)
    ascii_only = sys.getfilesystemencoding() == "ascii" and sys.version_info >= (3, 7)
    if ascii_only and not sys.flags.ignore_environment:  # else no path with other characters could be written to a file
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable] + _words())
    changed = os.environ.pop(TRIED, "") == str(os.getpid())
    venv = os.path.join(ROOT, ".venv")
    python = os.path.join(venv, "bin", "python")
    inside = os.path.realpath(sys.prefix) == os.path.realpath(venv)
    other = not inside and not changed and os.access(python, os.X_OK)
    fault = _fault(packages)
    if not fault and not (other and _is_conda_base()):
        return
    if other:
        os.environ[TRIED] = str(os.getpid())
        try:
            os.execv(python, [python] + _words())
        except OSError as error:
            fault = "{}: {}".format(python, error.strerror)
    sys.exit("error: {}; run this first: bash install.sh  (in {})".format(fault, ROOT))


def _stop(number, frame):
    """Ctrl-C while modules are imported, where an exception may end as another one, or as none."""
    os.write(2, b"interrupted\n")
    os._exit(130)


def _fault(packages):
    """Why this Python cannot run the kit, or None."""
    version = ".".join(str(number) for number in sys.version_info[:3])
    if sys.version_info < (3, 10):
        return "the kit needs Python 3.10 to 3.12, {} is {}".format(sys.executable, version)
    from importlib.util import find_spec

    missing = [name for name in packages if find_spec(name) is None]
    return "{} lacks the packages {}".format(sys.executable, ", ".join(missing)) if missing else None


def _is_conda_base():
    return os.environ.get("CONDA_DEFAULT_ENV") == "base" and sys.prefix == os.environ.get("CONDA_PREFIX")


def _words():
    """What stands after the interpreter on the command line, its own options included."""
    if hasattr(sys, "orig_argv"):  # since 3.10
        return sys.orig_argv[1:]
    with open("/proc/self/cmdline", "rb") as words:
        return words.read().split(b"\0")[1:-1]


def run(main):
    """Exit with main's status; one line and 1 where the system refuses a file, one line and 130 after Ctrl-C.

    141 without a word where whoever reads the output has left. Characters that the terminal lacks come as numbers.
    """
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    if signal.getsignal(signal.SIGINT) in (_stop, signal.default_int_handler):
        signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _interrupt_later
    try:
        try:
            status = main()
        finally:
            for stream in streams:
                _flush(stream)
    except (KeyboardInterrupt, Exception) as error:
        if is_interrupt(error):
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C while Python ends
            _end(streams, "interrupted\n")
            status = 130
        elif isinstance(error, OSError) and error.errno == errno.EPIPE and any(map(_has_no_reader, streams)):
            _end(streams, "")
            status = 141
        elif isinstance(error, OSError) and (error.errno in DISK_FAULTS or error.filename is not None):
            # A file or folder that is not what a command takes it for; of two names the one that the user gave.
            names = [name for name in (error.filename2, error.filename) if name is not None]
            said = "{}: ".format(names[0]) if names else ""
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                advice = "; make room, then run the same command again"
            else:
                advice = ""
            reason = os.strerror(error.errno) if error.errno in DISK_FAULTS else error.strerror
            _end(streams, "error: {}{}{}\n".format(said, reason, advice))
            status = 1
        else:
            raise  # a worker's pipe, say
    sys.exit(status)


def _interrupt(number, frame):
    """Ctrl-C, noted: a library whose import it meets may fail with an error of its own that knows nothing of it."""
    _met.append(number)
    raise KeyboardInterrupt


def is_interrupt(error):
    """Whether Ctrl-C is behind an error: libraries that clean up after it may raise another one instead."""
    if _met:
        return True
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _interrupt_later(unraisable):
    """Ctrl-C that met code which no error can leave, as a hook of `fork` or a `__del__`, comes again a moment later."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        signal.signal(signal.SIGALRM, _interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
    else:
        sys.__unraisablehook__(unraisable)


def _has_no_reader(stream):
    """Whether the stream is a pipe that nobody reads."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _flush(stream):
    """Write what waits in the stream; an error names it."""
    try:
        stream.flush()
    except OSError as error:
        error.filename = stream.name
        raise


def _end(streams, line):
    """Write a last line to stderr. What a stream cannot take is dropped: Python would try again when it ends."""
    for stream in streams:
        try:
            if stream is sys.stderr:
                stream.write(line)
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
