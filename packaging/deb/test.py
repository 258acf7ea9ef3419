"""test.py DEB ROOT: the package in a bare Debian: installed, run by its units under a systemd of its own, and purged.

ROOT is copied, and the copy is booted by systemd-nspawn with a network of its own. Needs root.
"""

import base64
import glob
import itertools
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time

# Longer than anything takes that works, in seconds.
PATIENCE = 30
# Of 10.0, which is no protection at all. What is left: the network, and @resources.
EXPOSURE = 1.5
CONFIG = "etc/openexec/openexec.yaml"


def run(*command, text=None, code=0):
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=10 * PATIENCE)
    said = done.stdout + done.stderr
    assert code is None or done.returncode == code, f"{' '.join(command)}: {done.returncode}\n{said}"
    return said


def wait_for(what, condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.05)


def the_package_installs_and_starts_nothing(root, deb):
    shutil.copy(deb, f"{root}/openexec.deb")
    run("chroot", root, "dpkg", "--install", "/openexec.deb")
    os.remove(f"{root}/openexec.deb")
    version = run("chroot", root, "openexec", "--version")
    assert version.startswith("openexec "), version
    said = run("chroot", root, "openexec", "validate", "--config", f"/{CONFIG}")
    assert "The configuration is good: clawshield mode on 127.0.0.1:5000" in said, said
    assert "CLAWSHIELD_SECRET_KEY is not set" in said, said
    assert run("chroot", root, "id", "openexec")
    assert not glob.glob(f"{root}/etc/systemd/system/*.wants/openexec*"), "it starts only when somebody says so"
    bash = run("chroot", root, "bash", "-c", ". /usr/share/bash-completion/completions/openexec; complete -p openexec")
    assert "openexec" in bash, bash
    print(f"{version.strip()} is installed, and its configuration is good")


def the_units_are_good_and_restricted(root):
    for folder in ["openexec.service.d", "openexec@.service.d"]:
        os.makedirs(f"{root}/etc/systemd/system/{folder}")
        shutil.copy(f"{root}/usr/share/doc/openexec/examples/clawshield.conf", f"{root}/etc/systemd/system/{folder}/")
    for unit in ["openexec.service", "openexec@b.service"]:
        said = run("chroot", root, "systemd-analyze", "verify", "--man=no", unit)
        assert "openexec" not in said, said
    security = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    said = run("chroot", root, *security, f"--threshold={int(EXPOSURE * 10)}", "openexec.service")
    print(said.strip().splitlines()[-1])
    # A unit that is not restricted must not pass, or the check checks nothing.
    run("chroot", root, *security, f"--threshold={int(EXPOSURE * 10)}", "systemd-journald.service", code=1)


class Machine:
    """A systemd with a root, a process table and a network of its own."""

    def __init__(self, root):
        self.root = root
        # Whatever becomes of this test, nothing stays behind.
        nspawn = ["setpriv", "--pdeathsig", "KILL", "systemd-nspawn", "--quiet", "--register=no", "--keep-unit"]
        nspawn += ["--private-network", "--boot", "--console=pipe", "--directory", root]
        self.log = open(f"{root}/console.log", "wb")
        self.process = subprocess.Popen(nspawn, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.first = None
        wait_for("systemd boots", self.is_up)

    def is_up(self):
        assert self.process.poll() is None, open(f"{self.root}/console.log", encoding="utf-8").read()
        children = open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="utf-8").read().split()
        self.first = children[-1] if children else None
        # Not before it is in there: nothing here may be done to the machine that runs the test.
        if not self.first or not self.is_another():
            return False
        # Degraded: something of the system's own failed, which is not asked here.
        state = run(*self.inside("systemctl", "is-system-running"), code=None)
        return state.strip() in ("running", "degraded")

    def is_another(self):
        namespaces = ["mnt", "pid", "uts", "ipc", "net"]
        apart = all(os.readlink(f"/proc/{self.first}/ns/{n}") != os.readlink(f"/proc/self/ns/{n}") for n in namespaces)
        with open(f"/proc/{self.first}/comm", encoding="utf-8") as file:
            return apart and file.read() == "systemd\n"

    def inside(self, *command):
        return ["nsenter", "--target", self.first, "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", *command]

    def run(self, *command, text=None, code=0):
        return run(*self.inside(*command), text=text, code=code)

    def property(self, unit, name):
        return self.run("systemctl", "show", "--value", "--property", name, unit).strip()

    def probe(self, code=0):
        return self.run("openexec", "probe", code=code)

    def execute(self, body):
        """curl is this machine's; the network is the other one's. Without an answer: curl's exit code."""
        curl = ["nsenter", "--target", self.first, "--net", "curl", "--silent", "--max-time", str(PATIENCE)]
        curl += ["--header", "Content-Type: application/json", "--data", "@-", "http://127.0.0.1:5000/execute"]
        done = subprocess.run(curl, input=body, capture_output=True, text=True)
        return json.loads(done.stdout) if done.returncode == 0 else {"curl": done.returncode}

    def end(self):
        # SIGRTMIN+4: power off.
        os.kill(int(self.first), 38)
        self.process.wait(PATIENCE)


def proposal(nonce):
    return json.dumps({"action": "add", "payload": {"a": 2, "b": 3}, "nonce": nonce})


def write(root, path, text):
    with open(f"{root}/{path}", "w", encoding="utf-8") as file:
        file.write(text)


def the_unit_serves_under_its_restrictions(machine, key):
    """Under the whole hardening of the unit, as a user without rights."""
    key_file = f"{machine.root}/etc/openexec/clawshield.key"
    write(machine.root, "etc/openexec/clawshield.key", key)
    os.chmod(key_file, 0o600)
    machine.run("systemctl", "start", "openexec")
    assert machine.property("openexec", "ActiveState") == "active"
    machine.probe()

    def mint(nonce):
        environment = ["env", f"CLAWSHIELD_SECRET_KEY={key}", "CLAWSHIELD_TENANT_ID=tenant-001"]
        return machine.run(*environment, "openexec", "mint", "-", text=proposal(nonce))

    approved = mint("sum-1")
    first = machine.execute(approved)
    assert first["result"] == {"sum": 5}, first
    assert machine.execute(proposal("sum-2"))["code"] == "approval_missing"

    pid = machine.property("openexec", "MainPID")
    lines = machine.run("cat", f"/proc/{pid}/status").splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    user = machine.run("id", "-u", "openexec").strip()
    assert status["Uid"].split() == [user] * 4, status["Uid"]
    assert (status["Seccomp"], status["NoNewPrivs"], status["CapBnd"]) == ("2", "1", "0" * 16), status
    listed = machine.run("stat", "--format", "%a %U %n", "/var/lib/openexec", "/var/lib/openexec/openexec.db")
    assert listed == "700 openexec /var/lib/openexec\n600 openexec /var/lib/openexec/openexec.db\n", listed
    print("the unit serves, as its user, with its system calls filtered and without capabilities")
    return mint, approved, first


def a_reload_takes_a_good_configuration_into_use_and_no_bad_one(machine, mint):
    good = open(f"{machine.root}/{CONFIG}", encoding="utf-8").read()
    pid = machine.property("openexec", "MainPID")
    write(machine.root, CONFIG, good + "limts: {}\n")
    machine.run("systemctl", "reload", "openexec")
    log = ["journalctl", "--no-pager", "--unit=openexec"]
    wait_for("the reason in the log", lambda: "openexec.yaml:19: limts is unknown" in machine.run(*log))
    machine.probe()
    write(machine.root, CONFIG, good + "allowed_actions: []\n")
    machine.run("systemctl", "reload", "openexec")
    # Each time another: one that comes before the reload is executed, and then answered for ever.
    nonces = (f"sum-{number}" for number in itertools.count(3))
    wait_for("the allow-list", lambda: machine.execute(mint(next(nonces))).get("code") == "action_not_allowed")
    write(machine.root, CONFIG, good)
    machine.run("systemctl", "reload", "openexec")
    approved = mint(next(nonces))
    wait_for("no allow-list", lambda: machine.execute(approved).get("result") == {"sum": 5})
    assert machine.property("openexec", "MainPID") == pid
    print("a reload keeps the process, takes a good configuration into use and a bad one not")


def a_takeover_refuses_no_request(machine, approved, first):
    """Each request on a new connection, while another instance takes over: none is refused."""
    answers, enough = [], threading.Event()

    def ask():
        while not enough.is_set():
            answers.append(machine.execute(approved))

    client = threading.Thread(target=ask)
    client.start()
    try:
        for old, new in [("openexec", "openexec@b"), ("openexec@b", "openexec@a"), ("openexec@a", "openexec@b")]:
            begun = len(answers)
            machine.run("systemctl", "start", new)
            wait_for(f"{old} ends", lambda: machine.property(old, "ActiveState") == "inactive")
            assert (machine.property(old, "Result"), machine.property(new, "ActiveState")) == ("success", "active")
            wait_for("more answers", lambda: len(answers) > begun + 3)
    finally:
        enough.set()
        client.join()
    assert all(answer == first for answer in answers), [answer for answer in answers if answer != first]
    machine.probe()
    print(f"three instances took over from one another, and none of {len(answers)} requests was refused")


def a_crash_is_restarted_and_a_bad_configuration_is_not(machine, approved, first):
    # Killed, it comes back by itself, and knows what it executed.
    machine.run("systemctl", "kill", "--signal=KILL", "openexec@b")
    wait_for("it comes back", lambda: machine.property("openexec@b", "NRestarts") == "1")
    wait_for("it is ready", lambda: "not ready" not in machine.probe(None) and machine.execute(approved) == first)
    machine.run("systemctl", "stop", "openexec@b")
    assert machine.property("openexec@b", "Result") == "success"
    # What cannot heal by itself is not tried again.
    good = open(f"{machine.root}/{CONFIG}", encoding="utf-8").read()
    write(machine.root, CONFIG, "limts: {}\n")
    machine.run("systemctl", "start", "openexec", code=1)
    shown = [machine.property("openexec", name) for name in ["ActiveState", "ExecMainStatus", "NRestarts"]]
    assert shown == ["failed", "78", "0"], shown
    write(machine.root, CONFIG, good)
    machine.run("systemctl", "start", "openexec")
    machine.probe()
    print("it is started again after a crash, and not with a bad configuration")


def a_removal_leaves_the_ledger(machine):
    """By dpkg, while it runs."""
    machine.run("dpkg", "--remove", "openexec")
    assert machine.property("openexec", "ActiveState") == "inactive"
    assert not os.path.exists(f"{machine.root}/usr/bin/openexec")
    assert os.path.exists(f"{machine.root}/{CONFIG}"), "the configuration stays until it is purged"
    machine.run("dpkg", "--purge", "openexec")
    assert not os.path.exists(f"{machine.root}/{CONFIG}")
    # What was executed is nobody's to forget but the operator's.
    assert os.path.exists(f"{machine.root}/var/lib/openexec/openexec.db")
    print("it is removed and purged, and the ledger stays")


def main():
    deb, base = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        root = f"{folder}/root"
        run("cp", "--archive", base, root)
        the_package_installs_and_starts_nothing(root, deb)
        the_units_are_good_and_restricted(root)
        machine = Machine(root)
        try:
            key = base64.b64encode(secrets.token_bytes(32)).decode()
            mint, approved, first = the_unit_serves_under_its_restrictions(machine, key)
            a_reload_takes_a_good_configuration_into_use_and_no_bad_one(machine, mint)
            a_takeover_refuses_no_request(machine, approved, first)
            a_crash_is_restarted_and_a_bad_configuration_is_not(machine, approved, first)
            a_removal_leaves_the_ledger(machine)
        except BaseException:
            sys.stderr.write(machine.run("journalctl", "--no-pager", "--lines=40", code=None))
            raise
        finally:
            machine.end()


if __name__ == "__main__":
    main()
