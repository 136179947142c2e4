"""What every test starts from."""

import signal

# Whoever is started by a shell in the background ignores Ctrl-C and so do its children: tests that press it would wait.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
