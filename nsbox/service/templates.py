"""Which templates there are. For now: ``default``, built from the host's own files."""

from nsbox.model.errors import Code, Problem
from nsbox.model.sandbox import Template

DEFAULT = "default"


class Templates:
    """The templates that sandboxes can be made from, by name. ``default`` is for those who name none."""

    def __init__(self, default: str = DEFAULT) -> None:
        self._default = default
        self._templates: dict[str, Template] = {}

    def add(self, template: Template) -> None:
        self._templates[template.name] = template

    def get(self, name: str) -> Template:
        """Raises ``Problem(TEMPLATE_NOT_AVAILABLE)``."""
        try:
            return self._templates[name]
        except KeyError:
            raise self._missing(Code.TEMPLATE_NOT_AVAILABLE, "templateId", "template", name) from None

    def resolve(self, template_id: str | None, image: str | None) -> str:
        """The name of what a client asked for by ``templateId`` or ``image``; both only if they agree.

        Raises ``Problem``, which says what there is.
        """
        if template_id is not None and image is not None and template_id != image:
            raise Problem(Code.INVALID_FIELD, "give either templateId or image, not both", field="image")
        if image is not None and image not in self._templates:
            raise self._missing(Code.IMAGE_NOT_AVAILABLE, "image", "image", image)
        return self.get(image or template_id or self._default).name

    def _missing(self, code: Code, field: str, what: str, name: str) -> Problem:
        available = sorted(self._templates)
        return Problem(
            code,
            f"the {what} {name[:200]!r} is not on this host; there are: {', '.join(available) or 'none'}",
            field=field,
            remedy="use one of those, or leave the field out for the default",
            available=available,
        )
