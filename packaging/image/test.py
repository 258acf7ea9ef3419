"""test.py: the image as it was built, run as its user, without a container engine: chroot, in namespaces of its own.

There is less in there than an engine gives: no /proc and no /dev. Needs root.
"""

import base64
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
MEGABYTE = 10**6
# Longer than anything takes that works, in seconds.
PATIENCE = 20


def buildah(*arguments):
    return subprocess.run([f"{HERE}/buildah.sh", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def the_image_is_small_and_has_two_programs(root):
    files = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            files[os.path.relpath(path, root)] = os.lstat(path).st_size
    size = sum(files.values())
    assert size < 40 * MEGABYTE, f"{size} bytes"
    programs = {name for name in files if os.access(os.path.join(root, name), os.X_OK) and ".so" not in name}
    assert programs == {"usr/bin/openexec", "usr/sbin/nft"}, f"no shell, and nothing else to run: {programs}"
    # Of each, the licence and the version.
    packages = {name.removeprefix("var/lib/dpkg/status.d/") for name in files if name.startswith("var/lib/dpkg/status.d/")}
    assert packages >= {"ca-certificates", "libc6", "libgcc-s1", "libmnl0", "libnftables1", "nftables"}, packages
    for package in packages:
        assert files.get(f"usr/share/doc/{package}/copyright", 0) > 100, package
    for needed in ["etc/ssl/certs/ca-certificates.crt", "usr/share/doc/openexec/openexec.cdx.json"]:
        assert files.get(needed, 0) > 100_000, needed
    print(f"the image has {len(files)} files and {size / MEGABYTE:.1f} MB, and two programs")


def the_image_names_a_user_and_a_health_check(config):
    user, group = config["User"].split(":")
    assert int(user) > 0 and int(group) > 0, config["User"]
    assert config["Healthcheck"]["Test"] == ["CMD", "/usr/bin/openexec", "probe"], config["Healthcheck"]
    assert list(config["Volumes"]) == ["/var/lib/openexec"] and config["WorkingDir"] == "/var/lib/openexec"
    assert list(config["ExposedPorts"]) == ["5000/tcp"] and config["Entrypoint"] == ["/usr/bin/openexec"]


class Container:
    """The image's program, with the image's environment, directory and user."""

    def __init__(self, root, config):
        user, group = config["User"].split(":")
        into = [f"--root={root}", f"--wd={config['WorkingDir']}"]
        # With a group, it has no others.
        self.enter = ["unshare", *into, f"--setgid={group}", f"--setuid={user}"]
        self.config = config
        self.environment = dict(line.split("=", 1) for line in config["Env"])

    def command(self, *arguments):
        return [*self.enter, *self.config["Entrypoint"], *arguments]

    def run(self, *arguments, text=None):
        return subprocess.run(
            self.command(*arguments), env=self.environment, input=text, capture_output=True, text=True, timeout=PATIENCE
        )

    def start(self):
        server = subprocess.Popen(self.command(), env=self.environment, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + PATIENCE
        while self.run("probe", "--live").returncode:
            assert server.poll() is None, server.stderr.read()
            assert time.monotonic() < deadline, "it does not start"
            time.sleep(0.02)
        return server

    def health(self):
        check = subprocess.run(
            [*self.enter, *self.config["Healthcheck"]["Test"][1:]], env=self.environment, capture_output=True, text=True
        )
        return check.returncode, check.stderr


def execute(body):
    request = urllib.request.Request(
        "http://127.0.0.1:5000/execute", data=body.encode(), headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return response.status, json.load(response), response.headers
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), error.headers


def stop(server):
    server.terminate()
    assert server.wait(PATIENCE) == 0, server.stderr.read()


def the_image_serves_as_its_user(root, config):
    proposal = json.dumps({"action": "add", "payload": {"a": 2, "b": 3}, "nonce": "sum-1"})
    container = Container(root, config)

    # As it comes: it serves, and says why it lets nothing through.
    server = container.start()
    assert container.health() == (1, "openexec: not ready: not_configured\n"), container.health()
    status, answer, _ = execute(proposal)
    assert (status, answer["code"]) == (403, "not_configured"), answer
    stop(server)

    container.environment["CLAWSHIELD_TENANT_ID"] = "tenant-001"
    container.environment["CLAWSHIELD_SECRET_KEY"] = base64.b64encode(secrets.token_bytes(32)).decode()
    server = container.start()
    assert container.health() == (0, ""), container.health()
    status, answer, _ = execute(proposal)
    assert (status, answer["code"]) == (403, "approval_missing"), answer
    minted = container.run("mint", "-", text=proposal)
    assert minted.returncode == 0, minted.stderr
    status, first, _ = execute(minted.stdout)
    assert (status, first["result"]) == (200, {"sum": 5}), first
    with open(f"/proc/{server.pid}/status", encoding="utf-8") as file:
        identity = {line.split()[0]: line.split()[1:] for line in file if line.startswith(("Uid", "Gid", "CapEff"))}
    user = config["User"].split(":")[0]
    assert identity == {"Uid:": [user] * 4, "Gid:": [user] * 4, "CapEff:": ["0" * 16]}, identity
    stop(server)

    # Another container on the same volume.
    server = container.start()
    status, again, headers = execute(minted.stdout)
    assert (status, again, headers["OpenExec-Replayed"]) == (200, first, "true"), again
    stop(server)
    print("the image runs as its user, is found healthy, executes, and knows it after a restart")


def the_image_leads_ports_to_the_gate(root, config):
    """What an init container does, with the /proc and /dev that an engine gives."""
    container = Container(root, config)
    redirect = ["redirect", "--app-port=8080", "--gate-port=5000", "--admin-port=5001"]
    printed = container.run(*redirect)
    assert printed.returncode == 0 and "redirect to :5000" in printed.stdout, printed.stderr
    version = subprocess.run([*container.enter, "/usr/sbin/nft", "--version"], check=True, capture_output=True, text=True)
    assert version.stdout.startswith("nftables v"), version.stdout
    os.makedirs(f"{root}/proc")
    os.makedirs(f"{root}/dev")
    os.symlink("/proc/self/fd/0", f"{root}/dev/stdin")
    subprocess.run(["mount", "-t", "proc", "proc", f"{root}/proc"], check=True)
    try:
        # As the image's user, who may not; then as root.
        refused = container.run(*redirect, "--apply")
        assert refused.returncode == 77 and "NET_ADMIN" in refused.stderr, refused.stderr
        container.enter = ["unshare", f"--root={root}"]
        applied = container.run(*redirect, "--apply")
        assert applied.returncode == 0, applied.stderr
    finally:
        subprocess.run(["umount", f"{root}/proc"], check=True)
    in_force = subprocess.run([*container.enter, "/usr/sbin/nft", "list", "ruleset"], check=True, capture_output=True, text=True)
    assert in_force.stdout.count("redirect to :5000") == 3, in_force.stdout
    print("the image prints the tables, is refused without NET_ADMIN, and puts them into force with it")


def main():
    if sys.argv[1:] != ["inside"]:
        own = ["unshare", "--net", "--mount", "--mount-proc", "--pid", "--fork", "--kill-child"]
        os.execvp(own[0], [*own, sys.executable, __file__, "inside"])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    config = json.loads(buildah("inspect", "--type", "image", "openexec:latest"))["Docker"]["config"]
    container = buildah("from", "openexec:latest")
    try:
        root = buildah("mount", container)
        the_image_is_small_and_has_two_programs(root)
        the_image_names_a_user_and_a_health_check(config)
        the_image_serves_as_its_user(root, config)
        the_image_leads_ports_to_the_gate(root, config)
    finally:
        buildah("rm", container)


if __name__ == "__main__":
    main()
