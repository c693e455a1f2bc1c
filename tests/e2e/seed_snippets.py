# ruff: noqa: E501 - what runs inside a sandbox is clearest as the line that somebody would type
"""The snippets that people copy, as they are published: data for ``test_seed``.

Only three words in them are replaced: the base URL, ``YOUR_API_KEY`` and ``SANDBOX_ID``.
"""

from __future__ import annotations

PUBLISHED_URL = "https://sandbox.developersdigest.tech/api/v1"

CURL = {
    "create": """curl -X POST https://sandbox.developersdigest.tech/api/v1/sandboxes \\
  -H "Authorization: Bearer YOUR_API_KEY" \\
  -H "Content-Type: application/json"
""",
    "exec": """curl -X POST https://sandbox.developersdigest.tech/api/v1/sandboxes/SANDBOX_ID/exec \\
  -H "Authorization: Bearer YOUR_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"command": "echo Hello && python3 -c \\"print(2+2)\\"" }'
""",
    "write": """curl -X PUT "https://sandbox.developersdigest.tech/api/v1/sandboxes/SANDBOX_ID/files?path=/app/hello.py" \\
  -H "Authorization: Bearer YOUR_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"content": "print(\\"Hello from sandbox!\\")"}'
""",
    "read": """curl "https://sandbox.developersdigest.tech/api/v1/sandboxes/SANDBOX_ID/files?path=/app/hello.py" \\
  -H "Authorization: Bearer YOUR_API_KEY"
# { "path": "/app/hello.py", "content": "print(\\"Hello from sandbox!\\")" }
""",
    "list": """curl "https://sandbox.developersdigest.tech/api/v1/sandboxes/SANDBOX_ID/files?path=/app&list=true" \\
  -H "Authorization: Bearer YOUR_API_KEY"
# { "path": "/app", "files": [...] }
""",
    "kill": """curl -X DELETE https://sandbox.developersdigest.tech/api/v1/sandboxes/SANDBOX_ID \\
  -H "Authorization: Bearer YOUR_API_KEY"
# { "id": "sb_abc123", "status": "stopped" }
""",
    "image": """curl -X POST https://sandbox.developersdigest.tech/api/v1/sandboxes \\
  -H "Authorization: Bearer YOUR_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"image": "node:22-alpine"}'
""",
}

PYTHON = {
    "create": """import requests

res = requests.post(
    "https://sandbox.developersdigest.tech/api/v1/sandboxes",
    headers={"Authorization": "Bearer YOUR_API_KEY"},
)
sandbox = res.json()
print(sandbox["id"])  # sb_abc123
""",
}

NODE = {
    "create": """const res = await fetch('https://sandbox.developersdigest.tech/api/v1/sandboxes', {
  method: 'POST',
  headers: {
    'Authorization': 'Bearer YOUR_API_KEY',
    'Content-Type': 'application/json',
  },
});
const sandbox = await res.json();
// { id: "sb_abc123", status: "running", ... }
""",
    "exec": """const exec = await fetch(
  `https://sandbox.developersdigest.tech/api/v1/sandboxes/${sandbox.id}/exec`,
  {
    method: 'POST',
    headers: {
      'Authorization': 'Bearer YOUR_API_KEY',
      'Content-Type': 'application/json',
    },
    body: JSON.stringify({ command: 'pip install pandas && python3 -c "import pandas; print(pandas.__version__)"' }),
  }
);
const result = await exec.json();
// { stdout: "2.2.0\\n", stderr: "", exitCode: 0, durationMs: 4521 }
""",
    "write and run": """// Write a file
await fetch(`https://sandbox.developersdigest.tech/api/v1/sandboxes/${id}/files?path=/app/hello.py`, {
  method: 'PUT',
  headers: { 'Authorization': 'Bearer YOUR_API_KEY', 'Content-Type': 'application/json' },
  body: JSON.stringify({ content: 'print("Hello from sandbox!")' }),
});

// Run it
const exec = await fetch(`https://sandbox.developersdigest.tech/api/v1/sandboxes/${id}/exec`, {
  method: 'POST',
  headers: { 'Authorization': 'Bearer YOUR_API_KEY', 'Content-Type': 'application/json' },
  body: JSON.stringify({ command: 'python3 /app/hello.py' }),
});
console.log((await exec.json()).stdout); // Hello from sandbox!
""",
    "kill": """await fetch(`https://sandbox.developersdigest.tech/api/v1/sandboxes/${sandbox.id}`, {
  method: 'DELETE',
  headers: { 'Authorization': 'Bearer YOUR_API_KEY' },
});
""",
    "image": """const res = await fetch('https://sandbox.developersdigest.tech/api/v1/sandboxes', {
  method: 'POST',
  headers: {
    'Authorization': 'Bearer YOUR_API_KEY',
    'Content-Type': 'application/json',
  },
  body: JSON.stringify({ image: 'python:3.12-slim' }),
});
""",
}
