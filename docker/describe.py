"""Write an image's bill of materials: `python describe.py ENVIRONMENT FOLDER`, during the build.

Writes `sbom.cdx.json` (CycloneDX: the Python packages of ENVIRONMENT and Debian's) and
`licences.txt` (licenses of the Python packages; Debian's are in /usr/share/doc/*/copyright).
"""

import json
import subprocess
import sys
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL


def python_packages(environment: Path) -> Bom:
    """Return the packages of `environment` with licenses and dependencies."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
    command += ["--spec-version", "1.6", environment / "bin/python3"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return Bom.from_json(json.loads(output))


def system_packages() -> list[Component]:
    """Return Debian's packages, from dpkg."""
    command = [
        "dpkg-query",
        "--show",
        "--showformat",
        "${Package}\\t${Version}\\t${Architecture}\\n",
    ]
    listing = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    components = []
    for line in listing.splitlines():
        name, version, architecture = line.split("\t")
        url = PackageURL("deb", "debian", name, version, {"arch": architecture})
        components.append(
            Component(
                name=name, version=version, type=ComponentType.LIBRARY, purl=url, bom_ref=str(url)
            )
        )
    return components


def license_texts(environment: Path) -> str:
    """Return name, version, license and license text of each Python package."""
    command = [sys.executable, "-m", "piplicenses", f"--python={environment / 'bin/python3'}"]
    command += ["--from=mixed", "--with-license-file", "--no-license-path", "--with-urls"]
    command += ["--with-system", "--format=plain-vertical"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main(environment: Path, folder: Path) -> None:
    bom = python_packages(environment)
    bom.components.update(system_packages())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sbom.cdx.json").write_text(JsonV1Dot6(bom).output_as_string(indent=1) + "\n")
    (folder / "licences.txt").write_text(license_texts(environment))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
