"""finish.py MADE OUTPUT, with `cargo tree --prefix none` on standard input: holds what cargo-cyclonedx made against
what cargo says is linked.

A crate of the tree that is not in the SBOM is an error. One that is in the SBOM and not in the tree is taken out: the
tool takes features for on that only the tests switch on, and a scanner would warn of crates that nobody runs.
"""

import json
import os
import sys

made, output = sys.argv[1:]
with open(made, encoding="utf-8") as file:
    # No path of the machine that it was made on.
    sbom = json.loads(file.read().replace(f"file://{os.getcwd()}", "file://."))
assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.5")


def key(part):
    return part["name"], part["version"]


# A line: name v1.2.3 [(proc-macro)] [(path)] [(*)]
tree = {(words[0], words[1].removeprefix("v")) for words in map(str.split, sys.stdin) if words}
subject = sbom["metadata"]["component"]
missing = tree - {key(part) for part in [subject, *sbom["components"]]}
assert key(subject) in tree and len(tree) > 100, "this is not our tree"
assert not missing, f"the SBOM does not name {sorted(missing)}"
sbom["components"] = [part for part in sbom["components"] if key(part) in tree]
known = {part["bom-ref"] for part in [subject, *sbom["components"]]}
sbom["dependencies"] = [
    {**node, "dependsOn": [ref for ref in node.get("dependsOn", []) if ref in known]}
    for node in sbom["dependencies"]
    if node["ref"] in known
]
unlicensed = [part["name"] for part in sbom["components"] if not part.get("licenses")]
assert not unlicensed, f"the SBOM has no licence of {unlicensed}"
with open(output, "w", encoding="utf-8") as file:
    json.dump(sbom, file, indent=1)
print(f"{output}: {len(sbom['components'])} crates, and openexec")
