"""Operations on snapshots, images and templates."""

from __future__ import annotations

from nsbox.api import answers, parameters, schema
from nsbox.api.operations import examples
from nsbox.api.operations.declare import (
    BASE,
    EVENTS,
    OCTETS,
    ON_SANDBOX,
    TAR,
    Answer,
    Content,
    Operation,
    body_of,
    json_of,
)
from nsbox.api.operations.sandboxes import MAKE
from nsbox.model.errors import Code

_BOX = f"{BASE}/sandboxes/{{sandboxId}}"
_ALL = f"{BASE}/snapshots"
_ONE = f"{_ALL}/{{snapshotId}}"
_IMAGES = f"{BASE}/images"
_TAKE = (
    *ON_SANDBOX,
    Code.IDEMPOTENCY_MISMATCH,
    Code.TOO_MANY_SNAPSHOTS,
    Code.TOO_MANY_LAYERS,
    Code.SNAPSHOT_REFUSED,
    Code.HOST_FULL,
)
_NO_SNAPSHOT = (Code.SNAPSHOT_NOT_FOUND,)
_PULL = (
    Code.FORBIDDEN,
    Code.IMAGE_NOT_AVAILABLE,
    Code.IMAGE_NOT_ALLOWED,
    Code.IMAGE_REFUSED,
    Code.REGISTRY_FAILED,
    Code.PULL_TIMED_OUT,
    Code.TOO_MANY_PULLS,
    Code.HOST_FULL,
)
_PUSH = (
    Code.IMAGE_NOT_ALLOWED,
    Code.PUSH_REFUSED,
    Code.REGISTRY_FAILED,
    Code.PUSH_TIMED_OUT,
    Code.TOO_MANY_PUSHES,
    Code.SNAPSHOT_REFUSED,
    Code.HOST_FULL,
)
_CHANGES = {"changes": [examples.CHANGE], "next": None}
_ARCHIVE = (Answer("The archive, streamed. One that breaks off is not whole.", (Content(TAR),)),)


def _progress(last: str, type_: object, step: object) -> Content:
    return Content(EVENTS, events={"progress": step, last: type_, "problem": answers.ProblemView})


_PUSHED = (
    Answer(
        "What the registry has now.",
        (
            Content(type=answers.PushedView, example=examples.PUSHED),
            _progress("pushed", answers.PushedView, answers.ProgressView),
        ),
    ),
)

OPERATIONS = (
    Operation(
        name="take_snapshot",
        method="POST",
        path=f"{_BOX}/snapshots",
        tag="Snapshots",
        summary="Keep what the sandbox has written",
        text="It stands still while its files are copied: all are of one moment. With `Idempotency-Key` the "
        "request can be sent again, and gets the same snapshot.",
        headers=("Idempotency-Key",),
        body=body_of(schema.TakeSnapshot, {"name": "before"}),
        answers=json_of(
            answers.SnapshotView, "It is kept.", examples.SNAPSHOT, 201, Location="Where it is looked at."
        ),
        errors=_TAKE,
    ),
    Operation(
        name="snapshots_of_sandbox",
        method="GET",
        path=f"{_BOX}/snapshots",
        tag="Snapshots",
        summary="Those of one sandbox",
        answers=json_of(list[answers.SnapshotView], "Oldest first.", [examples.SNAPSHOT]),
    ),
    Operation(
        name="fork_sandbox",
        method="POST",
        path=f"{_BOX}/fork",
        tag="Snapshots",
        summary="New sandboxes with the files of this one",
        text="All or none. What is not given is the source's. With `Idempotency-Key` the request can be sent "
        "again, and gets the same sandboxes.",
        headers=("Idempotency-Key",),
        body=body_of(schema.ForkSandbox, {"count": 1}),
        answers=json_of(answers.ForkedView, "They run.", examples.FORKED, 201),
        errors=(*_TAKE, *MAKE),
    ),
    Operation(
        name="diff_sandbox",
        method="GET",
        path=f"{_BOX}/diff",
        tag="Snapshots",
        summary="What the sandbox has changed",
        query=parameters.DIFF,
        answers=json_of(answers.ChangesView, "In the order of names.", _CHANGES),
        errors=(*ON_SANDBOX, Code.SNAPSHOT_REFUSED),
    ),
    Operation(
        name="list_snapshots",
        method="GET",
        path=_ALL,
        tag="Snapshots",
        summary="All of your snapshots",
        answers=json_of(list[answers.SnapshotView], "Oldest first.", [examples.SNAPSHOT]),
    ),
    Operation(
        name="get_snapshot",
        method="GET",
        path=_ONE,
        tag="Snapshots",
        summary="One snapshot",
        answers=json_of(answers.SnapshotView, "The snapshot.", examples.SNAPSHOT),
        errors=_NO_SNAPSHOT,
    ),
    Operation(
        name="remove_snapshot",
        method="DELETE",
        path=_ONE,
        tag="Snapshots",
        summary="Remove a snapshot",
        text="Sandboxes that were made from it keep what they stand on.",
        answers=json_of(
            answers.RemovedSnapshotView,
            "Nobody is given it any more.",
            {"id": examples.SNAPSHOT_ID, "removed": True},
        ),
        errors=_NO_SNAPSHOT,
    ),
    Operation(
        name="diff_snapshot",
        method="GET",
        path=f"{_ONE}/diff",
        tag="Snapshots",
        summary="What is different in it",
        query=parameters.DIFF,
        answers=json_of(answers.ChangesView, "In the order of names.", _CHANGES),
        errors=(*_NO_SNAPSHOT, Code.SNAPSHOT_REFUSED),
    ),
    Operation(
        name="export_snapshot",
        method="GET",
        path=f"{_ONE}/export",
        tag="Snapshots",
        summary="A snapshot as an archive",
        query=(parameters.FORMAT,),
        answers=_ARCHIVE,
        errors=(*_NO_SNAPSHOT, Code.SNAPSHOT_REFUSED, Code.HOST_FULL),
    ),
    Operation(
        name="ticket_of_snapshot",
        method="POST",
        path=f"{_ONE}/export/ticket",
        tag="Snapshots",
        summary="A ticket to save a snapshot",
        query=(parameters.FORMAT,),
        text="For a page in a browser: an address for one download, without a key, within 30 s.",
        answers=json_of(answers.DownloadView, "The ticket.", examples.DOWNLOAD, 201),
        errors=_NO_SNAPSHOT,
    ),
    Operation(
        name="push_snapshot",
        method="POST",
        path=f"{_ONE}/push",
        tag="Snapshots",
        summary="Push a snapshot to a registry",
        text="As an image: what its sandbox stood on and what it had written. Layers that the registry has "
        "are not sent. Events tell how far it is.",
        body=body_of(schema.PushSnapshot, {"to": "registry.example.com/team/tool:1"}),
        answers=_PUSHED,
        errors=(*_NO_SNAPSHOT, *_PUSH),
    ),
    Operation(
        name="list_images",
        method="GET",
        path=_IMAGES,
        tag="Images",
        summary="The images of this host",
        answers=json_of(
            answers.ImagesView, "By name.", {"images": [examples.IMAGE], "disk": examples.DISK_USE}
        ),
    ),
    Operation(
        name="pull_image",
        method="POST",
        path=_IMAGES,
        tag="Images",
        summary="Pull an image",
        text="Also one that is here, since a tag may have moved. Events tell how far it is.",
        body=body_of(schema.PullImage, {"image": "python:3.12-slim"}),
        answers=(
            Answer(
                "The image.",
                (
                    Content(type=answers.ImageView, example=examples.IMAGE),
                    _progress("image", answers.ImageView, answers.ProgressView),
                ),
            ),
        ),
        errors=_PULL,
    ),
    Operation(
        name="import_image",
        method="POST",
        path=f"{_IMAGES}/import",
        tag="Images",
        summary="Import an archive",
        text="An OCI layout as a tar, or what `docker save` wrote.",
        query=(parameters.NAME,),
        body=(Content(OCTETS),),
        answers=json_of(answers.ImageView, "The image.", examples.IMAGE),
        errors=(Code.FORBIDDEN, Code.IMAGE_REFUSED, Code.IMAGE_NOT_ALLOWED, Code.HOST_FULL),
    ),
    Operation(
        name="export_image",
        method="GET",
        path=f"{_IMAGES}/export",
        tag="Images",
        summary="An image as an archive",
        query=parameters.EXPORT_IMAGE,
        answers=_ARCHIVE,
        errors=(Code.IMAGE_NOT_FOUND, Code.SNAPSHOT_REFUSED, Code.HOST_FULL),
    ),
    Operation(
        name="push_image",
        method="POST",
        path=f"{_IMAGES}/push",
        tag="Images",
        summary="Push an image to a registry",
        text="To `to`, or to where its own name says. Layers that the registry has are not sent. Events tell "
        "how far it is.",
        body=body_of(
            schema.PushImage, {"image": "python:3.12-slim", "to": "registry.example.com/team/python:1"}
        ),
        answers=_PUSHED,
        errors=(Code.IMAGE_NOT_FOUND, *_PUSH),
    ),
    Operation(
        name="ticket_of_image",
        method="POST",
        path=f"{_IMAGES}/export/ticket",
        tag="Images",
        summary="A ticket to save an image",
        query=parameters.EXPORT_IMAGE,
        text="For a page in a browser: an address for one download, without a key, within 30 s.",
        answers=json_of(answers.DownloadView, "The ticket.", examples.DOWNLOAD, 201),
        errors=(Code.IMAGE_NOT_FOUND,),
    ),
    Operation(
        name="prune_images",
        method="POST",
        path=f"{_IMAGES}/prune",
        tag="Images",
        summary="Remove what nobody needs",
        body=body_of(schema.PruneImages, {"all": False}),
        answers=json_of(
            answers.PrunedView, "What was removed.", {"images": [], "layers": 2, "freedBytes": 33554432}
        ),
        errors=(Code.FORBIDDEN,),
    ),
    Operation(
        name="get_image",
        method="GET",
        path=f"{_IMAGES}/{{image}}",
        tag="Images",
        summary="One image",
        answers=json_of(answers.ImageView, "The image.", examples.IMAGE),
        errors=(Code.INVALID_FIELD, Code.IMAGE_NOT_FOUND),
    ),
    Operation(
        name="remove_image",
        method="DELETE",
        path=f"{_IMAGES}/{{image}}",
        tag="Images",
        summary="Forget an image",
        answers=json_of(
            answers.RemovedImageView,
            "Sandboxes that live keep what they stand on.",
            {"image": "docker.io/library/alpine:latest", "removed": True},
        ),
        errors=(Code.FORBIDDEN, Code.INVALID_FIELD, Code.IMAGE_NOT_FOUND),
    ),
    Operation(
        name="list_templates",
        method="GET",
        path=f"{BASE}/templates",
        tag="Images",
        summary="What sandboxes can be made from",
        answers=json_of(list[answers.TemplateView], "The templates.", [examples.TEMPLATE]),
    ),
    Operation(
        name="build_template",
        method="POST",
        path=f"{BASE}/templates",
        tag="Images",
        summary="Build a template",
        body=body_of(
            schema.BuildTemplate,
            {"name": "data", "image": "python:3.12-slim", "setup": ["pip install pandas"]},
        ),
        answers=(
            Answer(
                "The template.",
                (
                    Content(type=answers.BuiltView, example=examples.BUILT),
                    _progress("template", answers.BuiltView, answers.StepView),
                ),
            ),
        ),
        errors=(
            *_PULL,
            Code.BUILD_FAILED,
            Code.NO_SHELL,
            Code.TOO_MANY_SANDBOXES,
            Code.TOO_MANY_LAYERS,
            Code.CREATE_FAILED,
            Code.SNAPSHOT_REFUSED,
        ),
    ),
)
