"""Operations on commands and files."""

from __future__ import annotations

from nsbox.api import answers, parameters, schema
from nsbox.api.operations import examples
from nsbox.api.operations.declare import (
    BASE,
    EVENTS,
    OCTETS,
    ON_SANDBOX,
    Answer,
    Content,
    Operation,
    body_of,
    json_of,
)
from nsbox.model.errors import Code

_ONE = f"{BASE}/sandboxes/{{sandboxId}}"
_ALL = f"{_ONE}/processes"
_PROCESS = f"{_ALL}/{{processId}}"
_START = (
    *ON_SANDBOX,
    Code.IDEMPOTENCY_MISMATCH,
    Code.NO_SHELL,
    Code.TOO_MANY_COMMANDS,
    Code.SANDBOX_EXHAUSTED,
    Code.HOST_FULL,
)
_ON_PROCESS = (*ON_SANDBOX, Code.PROCESS_NOT_FOUND)
_EVENTS = {
    "started": answers.ProcessView,
    "stdout": answers.OutputEvent,
    "stderr": answers.OutputEvent,
    "dropped": answers.DroppedEvent,
    "exit": answers.ProcessView,
    "problem": answers.ProblemView,
}
_OUTPUT = Content(EVENTS, events=_EVENTS)
_FILE_ERRORS = (
    *ON_SANDBOX,
    Code.FILE_NOT_FOUND,
    Code.IS_A_DIRECTORY,
    Code.NOT_A_DIRECTORY,
    Code.NOT_A_REGULAR_FILE,
    Code.TOO_MANY_LINKS,
    Code.FILE_OPERATION_FAILED,
    Code.PERMISSION_DENIED,
    Code.READ_ONLY,
    Code.SANDBOX_EXHAUSTED,
)
_TEXT = {"path": "/app/hello.py", "content": 'print("Hello from sandbox!")', "encoding": "utf8"}

OPERATIONS = (
    Operation(
        name="exec_command",
        method="POST",
        path=f"{_ONE}/exec",
        tag="Commands",
        summary="Run a command to its end",
        text="Answers when it has ended or its time is over; with `stream=true` at once, with events. A "
        "client that leaves does not end it, unless `onDisconnect` says so. With `Idempotency-Key` nothing "
        "runs twice.",
        query=parameters.EXEC,
        headers=("Idempotency-Key", "Last-Event-ID"),
        body=body_of(schema.RunCommand, {"command": "echo Hello; echo $((2+2))"}),
        answers=(
            Answer(
                "It has ended; or what it writes, as it comes.",
                (Content(type=answers.ResultView, example=examples.RESULT), _OUTPUT),
            ),
        ),
        errors=(*_START, Code.STDIN_FULL, Code.PROCESS_NOT_FOUND, Code.RANGE_NOT_SATISFIABLE),
    ),
    Operation(
        name="start_process",
        method="POST",
        path=_ALL,
        tag="Commands",
        summary="Start a command in the background",
        headers=("Idempotency-Key",),
        body=body_of(
            schema.StartProcess, {"command": "python3 -m http.server 8080", "readyWhen": {"port": 8080}}
        ),
        answers=json_of(
            answers.StartedView,
            "It was started.",
            {**examples.PROCESS, "ready": True},
            201,
            Location="Where it is looked at.",
        ),
        errors=(*_START, Code.PROCESS_NOT_FOUND),
    ),
    Operation(
        name="list_processes",
        method="GET",
        path=_ALL,
        tag="Commands",
        summary="What runs in the background",
        query=(parameters.EVERY,),
        answers=json_of(list[answers.ProcessView], "The processes.", [examples.PROCESS]),
        errors=ON_SANDBOX,
    ),
    Operation(
        name="kill_processes",
        method="DELETE",
        path=_ALL,
        tag="Commands",
        summary="End every process of the sandbox",
        answers=json_of(answers.KilledProcessesView, "Only its process 1 is left.", {"killed": 4}),
        errors=ON_SANDBOX,
    ),
    Operation(
        name="get_process",
        method="GET",
        path=_PROCESS,
        tag="Commands",
        summary="One of them, also when it has ended",
        answers=json_of(answers.ProcessView, "The process.", examples.PROCESS),
        errors=_ON_PROCESS,
    ),
    Operation(
        name="end_process",
        method="DELETE",
        path=_PROCESS,
        tag="Commands",
        summary="End it, and forget it",
        answers=json_of(answers.ProcessView, "How it ended.", examples.ENDED),
        errors=_ON_PROCESS,
    ),
    Operation(
        name="wait_process",
        method="GET",
        path=f"{_PROCESS}/wait",
        tag="Commands",
        summary="Wait for its end",
        query=(parameters.WAIT_MS,),
        answers=json_of(answers.ProcessView, "Ended, or as it is when the time is over.", examples.ENDED),
        errors=_ON_PROCESS,
    ),
    Operation(
        name="signal_process",
        method="POST",
        path=f"{_PROCESS}/signal",
        tag="Commands",
        summary="Send it a signal",
        body=body_of(schema.SendSignal, {"signal": "TERM"}),
        answers=json_of(answers.ProcessView, "The process as it was then.", examples.PROCESS),
        errors=(*_ON_PROCESS, Code.PROCESS_ENDED),
    ),
    Operation(
        name="write_stdin",
        method="POST",
        path=f"{_PROCESS}/stdin",
        tag="Commands",
        summary="Write to its input",
        text="The body is the bytes themselves, of any type but JSON; or JSON. Up to 1 MiB at a time.",
        query=parameters.STDIN,
        body=(
            Content(type=schema.WriteStdin, example={"data": "a line\n", "close": True}),
            Content(OCTETS),
        ),
        answers=json_of(answers.StdinView, "It was taken.", {"written": 7, "closed": True}),
        errors=(*_ON_PROCESS, Code.PROCESS_ENDED, Code.STDIN_CLOSED, Code.STDIN_FULL, Code.HOST_FULL),
    ),
    Operation(
        name="process_logs",
        method="GET",
        path=f"{_PROCESS}/logs",
        tag="Commands",
        summary="What it has written",
        text="Both outputs in the order they came; with `follow=true`, or `Accept: text/event-stream`, until "
        "it has ended.",
        query=parameters.LOGS,
        headers=("Last-Event-ID",),
        answers=(
            Answer(
                "The output.",
                (Content(type=answers.LogView, example=examples.LOG), _OUTPUT, Content(OCTETS)),
                headers={"X-Log-Offset": "With `raw`: where it begins."},
            ),
        ),
        errors=(*_ON_PROCESS, Code.RANGE_NOT_SATISFIABLE),
    ),
    Operation(
        name="make_ticket",
        method="POST",
        path=f"{_PROCESS}/ticket",
        tag="Commands",
        summary="A ticket for a page in a browser",
        text="Good for one WebSocket to this process, from this origin, within 30 s.",
        body=body_of(schema.MakeTicket, {"origin": "https://app.example"}),
        answers=json_of(answers.TicketView, "The ticket.", examples.TICKET, 201),
        errors=_ON_PROCESS,
    ),
    Operation(
        name="attach_process",
        method="GET",
        path=f"{_PROCESS}/attach",
        tag="Commands",
        summary="A WebSocket to it: its streams, its terminal",
        text="Binary frames from nsbox are one byte of channel (1 stdout, 2 stderr), eight of the offset, "
        "big-endian, and the bytes; to nsbox the byte 0 and what goes to stdin. Text frames are JSON, told "
        "apart by `type`: from nsbox `started`, `stdin`, `dropped`, `problem`, `exit`; to nsbox `resize` "
        "(`rows`, `columns`), `signal`, `closeStdin`. The sub-protocol is `nsbox.v1`, or none.",
        query=parameters.ATTACH,
        answers=(Answer("The WebSocket.", status=101),),
        errors=(*_ON_PROCESS, Code.RANGE_NOT_SATISFIABLE),
        extra={"x-nsbox-websocket": {"subprotocols": ["nsbox.v1"]}},
    ),
    Operation(
        name="read_file",
        method="GET",
        path=f"{_ONE}/files",
        tag="Files",
        summary="Read a file, or list a folder",
        text="With `raw=true`, or `Accept: application/octet-stream`, the bytes themselves, of any size; "
        "`Range` (one range) is heeded then. With `list=true` a folder.",
        query=parameters.GET_FILE,
        headers=("Range", "If-Range"),
        answers=(
            Answer(
                "The file, or the folder.",
                (
                    Content(type=(answers.FileView, answers.ListingView), example=_TEXT),
                    Content(OCTETS),
                ),
            ),
            Answer("A part of the file.", (Content(OCTETS),), 206, {"Content-Range": "Which part it is."}),
        ),
        errors=(*_FILE_ERRORS, Code.FILE_TOO_LARGE, Code.RANGE_NOT_SATISFIABLE),
    ),
    Operation(
        name="write_file",
        method="PUT",
        path=f"{_ONE}/files",
        tag="Files",
        summary="Write a file",
        text="Missing folders are made, and the file is replaced as a whole. As `application/octet-stream` "
        "the body is the file itself, streamed.",
        query=parameters.UPLOAD,
        body=(
            Content(type=schema.WriteFile, example={"content": 'print("Hello from sandbox!")'}),
            Content(OCTETS),
        ),
        answers=json_of(
            answers.WrittenView, "It was written.", {"path": "/app/hello.py", "written": True, "size": 28}
        ),
        errors=(*_FILE_ERRORS, Code.NO_SPACE, Code.HOST_FULL),
    ),
    Operation(
        name="ticket_of_file",
        method="POST",
        path=f"{_ONE}/files/ticket",
        tag="Files",
        summary="A ticket to save a file",
        query=parameters.TICKET_OF_FILE,
        text="For a page in a browser: an address for one download, without a key, within 30 s.",
        answers=json_of(answers.DownloadView, "The ticket.", examples.DOWNLOAD, 201),
        errors=_FILE_ERRORS,
    ),
    Operation(
        name="remove_file",
        method="DELETE",
        path=f"{_ONE}/files",
        tag="Files",
        summary="Remove a file or a folder",
        query=parameters.REMOVE_FILE,
        answers=json_of(answers.DeletedView, "It is gone.", {"path": "/app", "deleted": True}),
        errors=(*_FILE_ERRORS, Code.DIRECTORY_NOT_EMPTY),
    ),
)
