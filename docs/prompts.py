"""Shows the docstrings' `>>>` examples as code."""

import re

import griffe

# From a line that starts with a prompt to the next empty line.
PROMPTED = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class FencedPrompts(griffe.Extension):
    """Fences prompts, which Markdown takes for quotations."""

    def on_object(self, *, obj: griffe.Object, **unused: object) -> None:
        """Called by griffe for all that it has loaded."""
        if obj.docstring:
            obj.docstring.value = PROMPTED.sub(
                r"```pycon\n\g<0>\n```", obj.docstring.value
            )
