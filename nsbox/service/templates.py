"""What sandboxes are made from: the template of the host's own files, named templates, and images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

import msgspec

from nsbox.model.errors import Code, Problem
from nsbox.model.image import Image, PullPolicy
from nsbox.model.sandbox import Template
from nsbox.oci.reference import BadReference, parse
from nsbox.oci.templatefile import TemplateFile
from nsbox.service import registries
from nsbox.service.images import Images, as_template

DEFAULT = "default"


class Templates:
    """By name. ``default`` is for those who name none; ``files`` are the templates that are images with a
    name; every image is a template of its own as well."""

    def __init__(
        self,
        default: str = DEFAULT,
        images: Images | None = None,
        files: Mapping[str, TemplateFile] | None = None,
    ) -> None:
        self._default, self._images, self._files = default, images, dict(files or {})
        self._templates: dict[str, Template] = {}

    def add(self, template: Template) -> None:
        self._templates[template.name] = template

    def layers(self) -> set[str]:
        """What the templates stand on that are no images."""
        return {layer for template in self._templates.values() for layer in template.layers}

    def get(self, name: str) -> Template:
        """One that is ready on this host. Raises ``Problem(TEMPLATE_NOT_AVAILABLE)``."""
        try:
            return self._templates[name]
        except KeyError:
            raise self._missing(name) from None

    def names(self) -> list[str]:
        """All that ``templateId`` can be."""
        built = [image.built.name for image in self._images.list() if image.built] if self._images else []
        return sorted({*self._templates, *self._files, *built})

    def resolve(self, template_id: str | None, image: str | None) -> str:
        """What a client asked for by ``templateId`` or ``image``, as a name that ``obtain`` takes; both only
        if they agree. Raises ``Problem``, which says what there is.
        """
        if template_id is not None and image is not None and template_id != image:
            raise Problem(Code.INVALID_FIELD, "give either templateId or image, not both", field="image")
        if image is not None and not self._known(image):
            if self._images is None:
                raise self._missing(image, Code.IMAGE_NOT_AVAILABLE, "image", "image")
            reference = registries.read(image)
            return reference.familiar
        name = image or template_id or self._default
        if not self._known(name):
            raise self._missing(name)
        return name

    def _known(self, name: str) -> bool:
        if name in self._templates or name in self._files:
            return True
        return self._images is not None and self._images.built(name) is not None

    async def obtain(self, name: str, pull: PullPolicy | None = None) -> Template:
        """A template or image, ready: an image that is not here is pulled, unless that is not wanted.

        Raises ``Problem``, ``HostProblem``. There is no checkpoint before it returns, so its layers can be
        held before anybody removes them.
        """
        ready = self._templates.get(name)
        if ready is not None:
            return ready
        if self._images is None:
            raise self._missing(name)
        built = self._images.built(name)
        if built is not None:
            return built
        file = self._files.get(name)
        if file is not None and file.setup:
            raise Problem(
                Code.TEMPLATE_NOT_AVAILABLE,
                f"the template {name!r} has to be built first",
                field="templateId",
                remedy="let the operator run nsbox image build with its file",
            )
        try:
            reference = parse(file.image if file is not None else name)
        except BadReference as error:
            raise self._missing(name) from error
        image = await self._images.ensure(reference, pull)
        return applied(file, image, name)

    def hold(self, layers: Iterable[str]) -> AbstractContextManager[None]:
        """Keep layers while a sandbox is being made of them."""
        return self._images.hold(layers) if self._images is not None else nullcontext()

    def describe(self) -> list[dict[str, object]]:
        """All of them, for people: name, image, whether it is here at once."""
        return [self._described(name) for name in self.names()]

    def _described(self, name: str) -> dict[str, object]:
        file = self._files.get(name)
        built = self._images.built(name) if self._images else None
        view: dict[str, object] = {"id": name, "default": name == self._default}
        if file is not None:
            reference = parse(file.image)
            view |= {"description": file.description, "image": reference.familiar, "setup": bool(file.setup)}
            here = self._images is not None and self._images.has(reference)
            return {**view, "ready": built is not None or (here and not file.setup)}
        if built is not None:  # by a file that is not in the folder
            view |= {"description": built.description, "image": parse(built.image).familiar}
        if name in self._templates:
            view["description"] = (
                "The host's own shell, core tools, Python and, where it is installed, Node.js"
            )
        return {**view, "ready": True}

    def _missing(
        self,
        name: str,
        code: Code = Code.TEMPLATE_NOT_AVAILABLE,
        field: str = "templateId",
        what: str = "template",
    ) -> Problem:
        available = self.names()
        return Problem(
            code,
            f"the {what} {name[:200]!r} is not on this host; there are: {', '.join(available) or 'none'}",
            field=field,
            remedy="use one of those, or leave the field out for the default; image takes any image",
            available=available,
        )


def applied(file: TemplateFile | None, image: Image, name: str) -> Template:
    """An image with what a template's file says over it."""
    template = as_template(image, name)
    if file is None:
        return template
    own = (*image.config.entrypoint, *image.config.cmd) if file.start_image else ()
    return msgspec.structs.replace(
        template,
        env={**template.env, **file.env},
        workdir=file.workdir or template.workdir,
        user=file.user if file.user is not None else template.user,
        shell=file.shell if file.shell is not None else template.shell,
        start=file.start or own,
        description=file.description,
    )
