"""`python -m em_platform` is `em-platform`."""

from em_platform.cli import main

main()
