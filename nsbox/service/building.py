"""Templates with set-up commands: run once in a sandbox, kept as a layer.

The sandbox belongs to nobody who has a key, has the default limits, and what it leaves is a layer like any
other: a self-hoster's own template needs neither Docker nor a registry.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import msgspec
import trio

from nsbox.model.errors import Code, HostProblem, Problem
from nsbox.model.image import Layer
from nsbox.model.sandbox import (
    CommandResult,
    CommandSpec,
    Encoding,
    Limits,
    Outcome,
    SandboxSpec,
    Template,
)
from nsbox.oci.reference import parse
from nsbox.oci.templatefile import TemplateFile
from nsbox.service import clock, stored
from nsbox.service.commands import Commands
from nsbox.service.cuts import Cuts
from nsbox.service.images import BUILT, Images
from nsbox.service.registry import Registry
from nsbox.service.sandboxes import Sandboxes
from nsbox.service.templates import applied
from nsbox.settings import Settings

#: Not an owner that a key can have: those are names.
OWNER = "\0builder"
_TAIL = 2000
#: And so many are in the message.
_SAID = 300


class Building:
    """Builds one template at a time for each who asks; they share nothing but the images."""

    def __init__(
        self,
        images: Images,
        sandboxes: Sandboxes,
        commands: Commands,
        registry: Registry,
        cuts: Cuts,
        settings: Settings,
    ) -> None:
        self._images, self._sandboxes, self._commands = images, sandboxes, commands
        self._registry, self._cuts, self._settings = registry, cuts, settings

    async def build(self, file: TemplateFile, told: Callable[[str], None]) -> Template:
        """The template, ready for use under its name. ``told`` hears what is being done.

        Raises ``Problem``: the output of a command that failed is in it.
        """
        reference = parse(file.image)
        told(f"image {reference.familiar}")
        image = await self._images.ensure(reference, None)
        template = applied(file, image, file.name)
        layers, name = image.layers, "t-" + secrets.token_hex(13)
        with self._images.hold((name, *template.layers)):
            if file.setup:
                kept = await self._set_up(file, str(reference), name, told)
                template = msgspec.structs.replace(template, layers=(name, *template.layers))
                layers = (*layers, kept)
            record = msgspec.structs.replace(
                image,
                reference=BUILT + file.name,
                layers=layers,
                built=template,
                pulled_at=clock.wall(),
                source=reference.familiar,
            )
            await self._images.keep(record)
        return template

    async def _set_up(
        self, file: TemplateFile, reference: str, name: str, told: Callable[[str], None]
    ) -> Layer:
        settings = self._settings
        limits = Limits(
            vcpus=settings.vcpus.default,
            memory_mb=settings.memory_mb.high,
            storage_mb=settings.storage_mb.high,
            pids=settings.pids,
        )
        # Somewhat longer than its commands may take: it ends even when nobody is left to end it.
        life = (file.setup_timeout_s * len(file.setup) + 600) * 1000
        spec = SandboxSpec(limits=limits, timeout_ms=life, template=reference)
        sandbox = await self._sandboxes.create(OWNER, spec, on_disk=True)
        try:
            for command in file.setup:
                told(f"run {command}")
                await self._run(sandbox.id, file, command)
            await self._commands.kill_all(OWNER, sandbox.id)
            told("keep")
            return await self._keep(sandbox.id, name)
        finally:
            with trio.CancelScope(shield=True):
                await self._sandboxes.kill(OWNER, sandbox.id)

    async def _run(self, sandbox_id: str, file: TemplateFile, command: str) -> None:
        spec = CommandSpec(
            argv=(*file.shell, command) if file.shell else (),
            command=command,
            env=file.env,
            user="root",
            cwd=file.workdir or "/",
            timeout_ms=file.setup_timeout_s * 1000,
            encoding=Encoding.UTF8,
        )
        result = await self._commands.run(OWNER, sandbox_id, spec)
        if result.outcome is not Outcome.EXITED or result.exit_code != 0:
            stderr = await stored.last(result.stderr, _TAIL)
            said = stderr or await stored.last(result.stdout, _SAID)
            raise Problem(
                Code.BUILD_FAILED,
                f"the set-up command {command[:200]!r} failed: {_told(result, said)}",
                field="setup",
                exitCode=result.exit_code,
                stderr=stderr.decode("utf-8", "replace"),
            )

    async def _keep(self, sandbox_id: str, name: str) -> Layer:
        live = self._registry.find(sandbox_id)
        if live is None:
            raise Problem(Code.SANDBOX_GONE, "the sandbox ended meanwhile", remedy="try again")
        ended, told = trio.Event(), [False]

        async def durable(well: bool) -> None:
            told[0] = well
            ended.set()

        cut, _ = await self._cuts.cut(live, name, durable)
        await ended.wait()
        if not told[0]:
            raise HostProblem("the layer could not be brought to the disk", remedy="see the log")
        return Layer(digest="", size=0, diff_id="", name=name, unpacked=cut.bytes)


def _told(result: CommandResult, said: bytes) -> str:
    last = said[-_SAID:].decode("utf-8", "replace").strip()
    if result.outcome is Outcome.EXITED:
        return f"exit status {result.exit_code}; {last}"
    return f"{result.outcome.value}; {last}"
