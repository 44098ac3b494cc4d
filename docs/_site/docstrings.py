"""A griffe extension: lines like "scope: what follows the kept tokens" in a docstring become a list."""

import re

from griffe import Extension

ENTRY = re.compile(r"^(\w+(?:, \w+)*(?: (?:and \w+|\([^)]*\)))*): (?=\S)")


class Entries(Extension):
    def on_instance(self, *, obj, **kwargs):
        if obj.docstring is None:
            return
        lines, listed = [], False
        for line in obj.docstring.value.splitlines():
            if ENTRY.match(line) and lines:
                lines += [] if listed else [""]
                line, listed = ENTRY.sub(r"- `\1`: ", line), True
            elif listed and line.strip():
                line = "    " + line.strip()
            else:
                listed = False
            lines.append(line)
        obj.docstring.value = "\n".join(lines)
