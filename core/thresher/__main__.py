"""`python -m thresher`: for torchrun, which starts modules."""

from thresher.cli import main

if __name__ == "__main__":
    main(prog_name="thresher")
