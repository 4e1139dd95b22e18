"""A registry on 127.0.0.1 that offers the npm packages in DIRECTORY. Arguments: DIRECTORY, the file for its port."""

import base64
import hashlib
import json
import sys
import tarfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote


def manifests(directory: Path) -> dict[str, dict[str, Any]]:
    """What package.json of each package contains, by the package's name, with the path of the package."""
    found = {}
    for path in directory.glob("*.tgz"):
        with tarfile.open(path) as archive:
            manifest = json.load(archive.extractfile("package/package.json"))  # type: ignore[arg-type]
        found[manifest["name"]] = {**manifest, "dist": {"path": path}}
    return found


class Registry(BaseHTTPRequestHandler):
    packages: ClassVar[dict[str, dict[str, Any]]] = {}

    def do_GET(self) -> None:
        name = unquote(self.path[1:])
        for manifest in self.packages.values():
            path = manifest["dist"]["path"]
            if name == path.name:
                return self.reply(200, "application/octet-stream", path.read_bytes())
        if name not in self.packages:
            return self.reply(404, "application/json", b"{}")
        manifest, version = self.packages[name], self.packages[name]["version"]
        path = manifest["dist"]["path"]
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
        dist = {"tarball": f"http://{self.headers['Host']}/{path.name}", "integrity": integrity}
        package = {"name": name, "dist-tags": {"latest": version}, "versions": {version: {**manifest, "dist": dist}}}
        self.reply(200, "application/json", json.dumps(package).encode())

    def reply(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        print(format % args)


if __name__ == "__main__":
    Registry.packages = manifests(Path(sys.argv[1]))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    new = Path(sys.argv[2] + ".new")
    new.write_text(str(server.server_port))
    new.rename(sys.argv[2])
    server.serve_forever()
