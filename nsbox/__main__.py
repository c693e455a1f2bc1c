"""``python -m nsbox``."""

from nsbox.cli.main import main

if __name__ == "__main__":
    main()
