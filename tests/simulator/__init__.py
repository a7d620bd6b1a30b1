"""A rehearsal of Lambda Cloud: the HTTP API, and behind every instance a machine with an sshd."""
