"""A pull that several may wait for, and how it ends."""

from __future__ import annotations

import errno

from nsbox.host.storage import full
from nsbox.model.errors import Code, HostProblem, Problem
from nsbox.model.image import Image
from nsbox.oci.layers import LayerRefused, Reason
from nsbox.oci.manifests import BadImage
from nsbox.oci.registry_errors import Denied, NotThere, RegistryError
from nsbox.service.layers import HOSTS_FAULT
from nsbox.service.work import Work


class Pull(Work[Image]):
    """One image on its way."""


def problem_of(error: Exception, familiar: str) -> Problem | HostProblem | None:
    """Why there is no image, in the words of the API; None for what is a fault of nsbox."""
    match error:
        case Problem() | HostProblem():
            return error
        case NotThere():
            return Problem(
                Code.IMAGE_NOT_AVAILABLE,
                f"{familiar} cannot be had: {error}",
                field="image",
                remedy="check its name and tag",
            )
        case Denied():
            return Problem(
                Code.IMAGE_NOT_AVAILABLE,
                f"{familiar} cannot be had: {error}",
                field="image",
                remedy="check its name; let the operator give nsbox credentials for this registry",
            )
        case RegistryError():
            return Problem(
                Code.REGISTRY_FAILED,
                f"{familiar} cannot be had: {error}",
                remedy=error.remedy or "try again later",
            )
        case BadImage():
            return Problem(Code.IMAGE_REFUSED, f"{familiar} cannot be used: {error}", field="image")
        case LayerRefused() if error.reason is Reason.NO_SPACE:
            return full()
        case LayerRefused() if error.reason in HOSTS_FAULT:
            return HostProblem(f"{familiar} could not be unpacked: {error.detail}", remedy="see the log")
        case LayerRefused():
            return Problem(
                Code.IMAGE_REFUSED,
                f"{familiar} cannot be used: {error.detail}",
                field="image",
                reason=str(error.reason),
            )
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return full()
    return None
