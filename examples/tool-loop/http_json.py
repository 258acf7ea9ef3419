"""JSON over HTTP, with the standard library."""
import json
import urllib.error
import urllib.request

# A proxy from the environment must not see what goes to a neighbour on this machine.
direct = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def post(url, document, headers, send):
    """Status, headers and document of the answer. An OSError, HTTPException or ValueError when there is none."""
    headers = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(url, json.dumps(document).encode(), headers)
    try:
        answer = send(request, timeout=120)
    except urllib.error.HTTPError as error:
        # An answer as well, with a status of 400 or more.
        answer = error
    with answer:
        return answer.status, answer.headers, json.load(answer)
