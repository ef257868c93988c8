"""Make the README's pictures: what `document` writes, as a browser shows it.

python docs/pictures.py        (needs chromium)
"""

import subprocess
import tempfile
from pathlib import Path

import derive as dr

IMAGES = Path(__file__).resolve().parent / "images"


def two_layers() -> dr.Network:
    """The network of the README."""
    net = dr.Network("two layers")
    b, i, j, k = dr.indices("b:B i:64 j:32 k:10")
    x, t = net.input("x", b, i), net.input("t", b, dtype=int)
    W1, c1 = net.parameter("W1", i, j), net.parameter("c1", j)
    W2, c2 = net.parameter("W2", j, k), net.parameter("c2", k)
    h = net.define("h", (b, j), dr.relu(dr.sum(x[b, i] * W1[i, j], i) + c1[j]))
    z = net.define("z", (b, k), dr.sum(h[b, j] * W2[j, k], j) + c2[k])
    net.loss(dr.mean(dr.logsumexp(z[b, k], k) - z[b, t[b]], b))
    return net


def only(page: Path, text: str, hidden: str) -> None:
    """The page without what a selector names."""
    style = f"<style>{hidden}{{display:none}}</style></head>"
    page.write_text(text.replace("</head>", style, 1), encoding="utf-8")


def screenshot(page: Path, picture: Path, size: str) -> None:
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
             "--no-first-run", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", "--hide-scrollbars", f"--user-data-dir={profile}",
             f"--window-size={size}", f"--screenshot={picture}", page.as_uri()],
            check=True, capture_output=True)


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "two_layers.html"
        dr.derive(two_layers()).document(page, force=True)
        text = page.read_text(encoding="utf-8")
        only(page, text, "nav, footer, section:not(#result)")
        screenshot(page, IMAGES / "derivation.png", "1000,640")
        only(page, text, "h1, nav, footer, main > section:not(#backward), "
             "#backward > :not(#adjoint-z)")
        screenshot(page, IMAGES / "steps.png", "1000,790")


if __name__ == "__main__":
    main()
