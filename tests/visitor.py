"""Asks the local page as its own script does, or otherwise: plain HTTP, any bytes, any path."""

import http.client
import json
import urllib.parse
import uuid


class Visitor:
    """A browser of one's own making; `answers` counts the statuses of all its requests."""

    def __init__(self, address):
        self.address = urllib.parse.urlsplit(address)
        self.answers = {}
        self.config = json.loads(self.get("/config")[1])
        self.names = {
            part["props"].get("elem_id"): part["id"] for part in self.config["components"]
        }
        self.session = uuid.uuid4().hex

    def send(self, method, path, body=None, headers=None):
        """(status, body, headers); the path goes as it is."""
        connection = http.client.HTTPConnection(
            self.address.hostname, self.address.port, timeout=60
        )
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            given = {"host": self.address.netloc, **(headers or {})}
            if body is not None and "transfer-encoding" not in given:
                given.setdefault("content-length", str(len(body)))
            for name, value in given.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
            self.answers[answer.status] = self.answers.get(answer.status, 0) + 1
            return answer.status, data, dict(answer.getheaders())
        finally:
            connection.close()

    def get(self, path, **headers):
        return self.send("GET", path, headers=headers)

    def post(self, path, value, **headers):
        return self.send(
            "POST",
            path,
            json.dumps(value).encode(),
            {"content-type": "application/json", **headers},
        )

    def upload(self, *files):
        """Of (name, bytes): their paths on the other side, or the status."""
        status, data, _ = self.send("POST", "/gradio_api/upload", *form(files))
        return json.loads(data) if status == 200 else status

    def function(self, name, event):
        """(number, ids of its inputs, ids of its outputs) of what happens at that component."""
        target = [self.names[name], event]
        found = next(d for d in self.config["dependencies"] if target in d["targets"])
        return found["id"], found["inputs"], found["outputs"]

    def join(self, name, event, **values):
        """Asks; values by the components' names, others as they begin. (status, what it says)."""
        number, inputs, _ = self.function(name, event)
        parts = {part["id"]: part for part in self.config["components"]}
        data = []
        for each in inputs:
            props = parts[each]["props"]
            data.append(
                values.get((props.get("elem_id") or "").replace("-", "_"), props.get("value"))
            )
        return self.put(data, number)

    def put(self, data, number):
        question = {
            "data": data, "fn_index": number, "session_hash": self.session, "event_data": None,
            "trigger_id": None,
        }  # fmt: skip
        status, said, _ = self.post("/gradio_api/queue/join", question)
        return status, json.loads(said)

    def ask(self, name, event, **values):
        """{name of an output: what it is now}; raises where the page has failed."""
        status, said = self.join(name, event, **values)
        assert status == 200, (status, said)
        output = self.heard(said["event_id"])
        assert output.get("success"), output
        _, _, outputs = self.function(name, event)
        names = {number: name for name, number in self.names.items()}
        return {names.get(o): v for o, v in zip(outputs, output["output"]["data"])}

    def heard(self, event):
        """The last message of an answer."""
        _, data, _ = self.get(f"/gradio_api/queue/data?session_hash={self.session}")
        for line in data.decode().splitlines():
            message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if message.get("event_id") == event and message["msg"] == "process_completed":
                return message
        raise AssertionError(data[-2000:])


def form(files):
    """(body, headers) of an upload."""
    mark = "----a-mark-between-files"
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + data
        + b"\r\n"
        for name, data in files
    ]
    body = b"".join(parts) + f"--{mark}--\r\n".encode()
    return body, {"content-type": f"multipart/form-data; boundary={mark}"}


def uploaded(path):
    """As the page's script names an upload."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}}
