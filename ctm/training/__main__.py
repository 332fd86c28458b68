"""``python -m ctm.training --config FILE``: see :mod:`ctm.training.launch`."""

from ctm.training.launch import main

if __name__ == "__main__":
    main()
