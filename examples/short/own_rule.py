"""A rule of your own, compared with the others: python examples/short/own_rule.py"""

import sys

from zipr1.cli.main import main


class TextAndHalf:
    def keep(self, scores):
        return scores.valid & (~scores.visual | (scores.ranks % 2 == 0))


if __name__ == "__main__":
    main(["eval", "zipr1/tiny", "--methods", f"full,zipvl,{__file__}:TextAndHalf", *sys.argv[1:]])
