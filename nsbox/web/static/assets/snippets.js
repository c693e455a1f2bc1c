// The examples of the Getting Started page, for an address and a key.

const q = JSON.stringify;

function curl(api, key, method, path, body) {
  const head = method === "GET" ? `curl "${api}${path}"` : `curl -X ${method} "${api}${path}"`;
  const lines = [head, `  -H "Authorization: Bearer ${key}"`];
  if (body !== undefined) lines.push(`  -H "Content-Type: application/json"`, `  -d '${q(body)}'`);
  return lines.join(" \\\n");
}

function node(api, key, method, path, body, rest) {
  const url = path.includes("SANDBOX_ID") ? `\`${api}${path.replace("SANDBOX_ID", "${sandbox.id}")}\`` : q(api + path);
  const lines = [`const res = await fetch(${url}, {`];
  if (method !== "GET") lines.push(`  method: ${q(method)},`);
  lines.push(`  headers: {`, `    Authorization: ${q(`Bearer ${key}`)},`);
  if (body !== undefined) lines.push(`    "Content-Type": "application/json",`);
  lines.push(`  },`);
  if (body !== undefined) lines.push(`  body: JSON.stringify(${q(body)}),`);
  return [...lines, `});`, ...rest].join("\n");
}

function python(api, key, method, path, body, rest) {
  const url = path.includes("SANDBOX_ID") ? `f${q(api + path.replace("SANDBOX_ID", "{sandbox['id']}"))}` : q(api + path);
  const lines = [`import requests`, ``, `res = requests.${method.toLowerCase()}(`, `    ${url},`];
  lines.push(`    headers={"Authorization": ${q(`Bearer ${key}`)}},`);
  if (body !== undefined) lines.push(`    json=${q(body)},`);
  return [...lines, `)`, ...rest].join("\n");
}

/** One request in three languages: `[name, code]`. */
function request(api, key, [method, path, body], { js = [], py = [], answer } = {}) {
  return [
    ["curl", curl(api, key, method, path, body) + (answer ? `\n# ${answer}` : "")],
    ["Node", node(api, key, method, path, body, js)],
    ["Python", python(api, key, method, path, body, py)],
  ];
}

/** The steps: `{title, detail, snippets}`. A snippet is a list of `[language, code]`. */
export function steps(api, key) {
  const one = (call, more) => request(api, key, call, more);
  const file = "/sandboxes/SANDBOX_ID/files?path=/app/hello.py";
  return [
    {
      title: "Create a sandbox",
      detail: "An isolated Linux, with defaults that fit. No body is needed.",
      snippets: [
        one(["POST", "/sandboxes"], {
          js: ["const sandbox = await res.json();", '// { id: "sb_…", status: "running", … }'],
          py: ["sandbox = res.json()", 'print(sandbox["id"])  # sb_…'],
          answer: '{"id": "sb_…", "status": "running", …}',
        }),
      ],
    },
    {
      title: "Run a command",
      detail: "Any command of the shell. The answer has both outputs, the exit code and how long it took.",
      snippets: [
        one(["POST", "/sandboxes/SANDBOX_ID/exec", { command: 'echo Hello && python3 -c "print(2+2)"' }], {
          js: ["const result = await res.json();", '// { stdout: "Hello\\n4\\n", stderr: "", exitCode: 0, … }'],
          py: ['print(res.json()["stdout"])'],
          answer: '{"stdout": "Hello\\n4\\n", "stderr": "", "exitCode": 0, "durationMs": 38, …}',
        }),
      ],
    },
    {
      title: "Write and read files",
      detail: "Write, read, list, delete. Folders on the way are made.",
      snippets: [
        one(["PUT", file, { content: 'print("Hello from the sandbox")' }], { answer: '{"path": "/app/hello.py", "written": true, …}' }),
        one(["GET", file], {
          js: ["console.log((await res.json()).content);"],
          py: ['print(res.json()["content"])'],
          answer: '{"path": "/app/hello.py", "content": "…", …}',
        }),
        one(["GET", "/sandboxes/SANDBOX_ID/files?path=/app&list=true"], {
          js: ["console.log((await res.json()).files);"],
          py: ['print(res.json()["files"])'],
          answer: '{"path": "/app", "files": ["hello.py"], …}',
        }),
      ],
    },
    {
      title: "Start a server and visit it",
      detail: "Start it in the background and open its port: the answer has an address to visit.",
      snippets: [
        one(["POST", "/sandboxes/SANDBOX_ID/processes", { command: "python3 -m http.server 8080", cwd: "/app" }]),
        one(["POST", "/sandboxes/SANDBOX_ID/ports", { port: 8080 }], {
          js: ["console.log((await res.json()).url);"],
          py: ['print(res.json()["url"])'],
          answer: '{"port": 8080, "url": "…", …}',
        }),
      ],
    },
    {
      title: "Pause, resume, kill",
      detail: "Paused, it uses no processor and its clock stands still. Killed, it is gone, and its files with it.",
      snippets: [
        one(["POST", "/sandboxes/SANDBOX_ID/pause"], { answer: '{"id": "sb_…", "status": "paused", …}' }),
        one(["POST", "/sandboxes/SANDBOX_ID/resume"], { answer: '{"id": "sb_…", "status": "running", …}' }),
        one(["DELETE", "/sandboxes/SANDBOX_ID"], { answer: '{"id": "sb_…", "status": "stopped"}' }),
      ],
    },
    {
      title: "Use a language",
      detail: "Give an image. What is not on this host yet is pulled first.",
      snippets: [one(["POST", "/sandboxes", { image: "node:22-alpine" }], { js: ["const sandbox = await res.json();"], py: ["sandbox = res.json()"] })],
    },
  ];
}

/** Images and what they are for. */
export const LANGUAGES = [
  ["Python 3.12", "python:3.12-slim"],
  ["Node.js 22", "node:22-alpine"],
  ["Go 1.23", "golang:1.23-alpine"],
  ["Rust", "rust:1-slim"],
  ["Ubuntu 24.04", "ubuntu:24.04"],
  ["Alpine", "alpine:latest"],
];

/** The routes, in groups. */
export const ROUTES = [
  [
    "Sandboxes",
    [
      ["POST", "/sandboxes", "create: vcpus, memoryMb, storageMb, timeoutMs, templateId, image, snapshot, network, envVars, autoPause"],
      ["GET", "/sandboxes", "all of yours that are alive; ?status=all for the others, too"],
      ["GET", "/sandboxes/ID", "one of them"],
      ["DELETE", "/sandboxes/ID", "kill it"],
      ["POST", "/sandboxes/ID/pause, …/resume", "let it stand still, and go on"],
      ["POST", "/sandboxes/ID/timeout", "timeoutMs: more time, or less"],
      ["GET", "/sandboxes/ID/metrics", "what it uses"],
    ],
  ],
  [
    "Commands",
    [
      ["POST", "/sandboxes/ID/exec", "command, cwd, env, stdin, timeoutMs: run it and wait; ?stream=true for events"],
      ["POST", "/sandboxes/ID/processes", "start it in the background, or with terminal on one"],
      ["GET", "/sandboxes/ID/processes", "what runs"],
      ["GET", "/sandboxes/ID/processes/PROCESS/logs", "what it has written; ?follow=true goes on"],
      ["DELETE", "/sandboxes/ID/processes", "end all"],
    ],
  ],
  [
    "Files",
    [
      ["GET", "/sandboxes/ID/files?path=PATH", "a file; &list=true a folder; &raw=true the bytes"],
      ["PUT", "/sandboxes/ID/files?path=PATH", "content, or the bytes themselves as application/octet-stream"],
      ["DELETE", "/sandboxes/ID/files?path=PATH", "&recursive=true for a folder"],
    ],
  ],
  [
    "Ports, network, snapshots",
    [
      ["POST", "/sandboxes/ID/ports", "port, public: an address to visit"],
      ["GET", "/sandboxes/ID/ports", "those that are open"],
      ["DELETE", "/sandboxes/ID/ports/PORT", "close it"],
      ["PUT", "/sandboxes/ID/network", "mode, allow, deny, ports: what it reaches"],
      ["POST", "/sandboxes/ID/snapshots", "name: keep its files"],
      ["POST", "/sandboxes/ID/fork", "count: more like it"],
    ],
  ],
];
