"""One module a command, each with a click object named `command`; imported only when its command is run."""
