# SPDX-License-Identifier: Apache-2.0
"""Files that are no scenes, each with the key that its error names and a part of the sentence."""

from __future__ import annotations

CANVAS = "canvas: {width: 128, height: 64}\n"
CANVAS_JSON = '{"canvas": {"width": 64, "height": 64}'
_REGION = "regions: [{box: [0, 0, 64, 64], style: dawn}]\n"
_BILLION = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    + [
        f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    ]
)

# name -> (file, text, key, what is said)
BAD: dict[str, tuple[str, str, str, str]] = {
    # Not well-formed.
    "empty": (".yaml", "", "", "must be keys with values, got None. A scene begins with `canvas:`"),
    "a list": (".yaml", "- canvas\n", "", "must be keys with values"),
    "a word": (".json", '"canvas"', "", "must be keys with values, got 'canvas'"),
    "open bracket": (".yaml", "canvas: {width: 1\nsteps: 3", "line 2", "must be YAML"),
    "tabs": (".yaml", "canvas:\n\twidth: 3", "line 2, column 1", "must be YAML"),
    "open brace": (".json", '{"canvas": {"width": 1', "line 1, column 23", "must be JSON"),
    "trailing comma": (".json", '{"canvas": {"width": 1,}}', "line 1", "must be JSON"),
    "two documents": (".yaml", CANVAS + "---\n" + CANVAS, "line 2", "must hold one document"),
    "not UTF-8": (".yaml", "canvas: \udcff", "", "must be UTF-8 text, got byte 8"),
    "control characters": (".yaml", "canvas: \x01", "", "must be YAML"),
    "half a character": (".json", '{"prompt": "\\ud800"}', "prompt", "got half a character"),
    # Dangerous.
    "python object": (".yaml", "canvas: !!python/object/apply:os.system [ls]", "canvas", "must have no tag"),
    "own tag": (".yaml", CANVAS + "prompt: !secret x", "prompt", "must have no tag, got '!secret'"),
    "billion laughs": (".yaml", _BILLION, "e[0]", "must hold at most 20000 values"),
    "alias to itself": (".yaml", "canvas: &a [*a]", "canvas[0]", "must name an anchor that is complete"),
    "alias of nothing": (".yaml", "canvas: *a", "canvas", "must name an anchor that is complete, got *'a'"),
    "deep YAML": (".yaml", "canvas: " + "[" * 10_000, "canvas[0]", "must be nested at most 12 deep"),
    "deep mappings": (".yaml", "{a: " * 10_000, "a.a.a", "must be nested at most 12 deep"),
    "deep JSON": (".json", '{"a":' * 10_000, "", "must be nested at most 12 deep"),
    "many values": (".json", '{"guides": [' + "1," * 30_000 + "1]}", "guides", "must hold at most 20000"),
    "large file": (".yaml", "# " + "x" * 2**19, "", "must have at most 524288 bytes"),
    "long text": (
        ".yaml",
        CANVAS + "prompt: " + "x" * 9000,
        "prompt",
        "at most 8192 bytes of text",
    ),
    # Keys.
    "unknown key": (".yaml", CANVAS + "promt: sea", "promt", "got 'promt'. Did you mean prompt?"),
    "unknown key of a region": (
        ".yaml",
        CANVAS + "regions: [{box: [0, 0, 9, 9], sytle: dawn}]",
        "regions[0].sytle",
        "got 'sytle'. Did you mean style?",
    ),
    "key of no use": (".json", '{"canvas": {"width": 1, "depth": 2}}', "canvas.depth", "Did you mean width"),
    "key twice": (".yaml", "canvas: {width: 3, height: 3, width: 4}", "canvas.width", "must not stand twice"),
    "key twice in JSON": (".json", '{"canvas": 1, "canvas": 2}', "canvas", "must not stand twice"),
    "number as a key": (".yaml", "1: 2", "'1'", "must be a word, got 1"),
    "list as a key": (".yaml", "? [a, b]\n: 3", "line 1", "must have words as keys"),
    "no canvas": (".yaml", "steps: 3", "canvas", "must be given, got nothing"),
    "no height": (".yaml", "canvas: {width: 128}", "canvas.height", "must be given"),
    "forged line": (".json", '{"a\\nerror: b": 1}', "'a\\nerror: b'", "must be a key that scenes know"),
    # Values.
    "text as a number": (".yaml", CANVAS + "steps: ten", "steps", "must be a whole number, got 'ten'"),
    "half a step": (".yaml", CANVAS + "steps: 1.5", "steps", "must be a whole number, got 1.5"),
    "no as text": (".yaml", CANVAS + "prompt: no", "prompt", "must be text, got False. Put it in quotes"),
    "date": (".yaml", CANVAS + "seed: 2026-01-01", "seed", "must be a whole number"),
    "NaN": (".yaml", CANVAS + "guidance: .nan", "guidance", "must be a finite number, got nan"),
    "infinity": (".yaml", CANVAS + "guidance: -.inf", "guidance", "must be a finite number, got -inf"),
    "NaN in JSON": (".json", '{"guidance": NaN}', "", "must hold finite numbers only, got NaN"),
    "1e400": (".json", '{"canvas": {"width": 1e400}}', "canvas.width", "must be a finite number, got inf"),
    "6,000 digits": (".yaml", CANVAS + "seed: " + "9" * 6000, "seed", "must have at most 100 digits"),
    "6,000 digits in JSON": (".json", '{"seed": ' + "9" * 6000 + "}", "", "at most 4300 digits"),
    "seed below 0": (".yaml", CANVAS + "seed: -1", "seed", "must be at least 0, got -1"),
    "seed of 64 bits": (".yaml", CANVAS + f"seed: {2**63}", "seed", f"must be below {2**63}"),
    "no steps": (".yaml", CANVAS + "steps: 0", "steps", "must be at least 1, got 0"),
    "many steps": (".yaml", CANVAS + "steps: 1001", "steps", "must be at most 1000, got 1001"),
    "unknown solver": (".yaml", CANVAS + "solver: rk4", "solver", "must be one of dpmpp2m, heun"),
    "huge canvas": (".yaml", "canvas: {width: 20000, height: 20000}", "canvas", "at most 67108864"),
    "huge enlargement": (
        ".yaml",
        "canvas: {width: 9000, height: 900}\noutput: {upscale: 9}",
        "canvas",
        "9^2",
    ),
    "narrow canvas": (
        ".yaml",
        "canvas: {width: 16, height: 64}",
        "canvas",
        "at least 32 wide and 32 high",
    ),
    "many patches": (".yaml", "canvas: {width: 8000, height: 8000}", "canvas", "at most 4096 patches"),
    "three numbers": (
        ".yaml",
        CANVAS + "regions: [{box: [0, 0, 9]}]",
        "regions[0].box",
        "four whole numbers",
    ),
    "five numbers": (".yaml", CANVAS + "regions: [{box: [0, 0, 9, 9, 9]}]", "regions[0].box", "four whole"),
    "box without area": (
        ".yaml",
        CANVAS + "regions: [{box: [9, 0, 9, 9]}]",
        "regions[0].box",
        "right beyond left",
    ),
    "box off the canvas": (
        ".yaml",
        CANVAS + "regions: [{box: [0, 0, 64, 64]}, {box: [0, 0, 64, 65]}]",
        "regions[1].box[3]",
        "must be at most 64, got 65",
    ),
    "box below 0": (".yaml", CANVAS + "regions: [{box: [-1, 0, 9, 9]}]", "regions[0].box[0]", "at least 0"),
    "neither box nor mask": (".yaml", CANVAS + "regions: [{style: dawn}]", "regions[0]", "got neither"),
    "name twice": (
        ".yaml",
        CANVAS + "regions: [{name: a, box: [0, 0, 9, 9]}, {name: a, box: [0, 0, 9, 9]}]",
        "regions[1].name",
        "must be used once, got 'a'",
    ),
    "name with spaces": (".yaml", CANVAS + "regions: [{name: a b}]", "regions[0].name", "letters, digits"),
    "257 regions": (
        ".json",
        CANVAS_JSON + ', "regions": [' + "{}," * 256 + "{}]}",
        "regions",
        "must have at most 256 entries",
    ),
    "large grid": (
        ".yaml",
        CANVAS + "grid: {rows: 17, columns: 17, region: [64, 64]}",
        "grid",
        "at most 256 regions in all, got 289",
    ),
    "grid that does not fit": (
        ".yaml",
        CANVAS + "grid: {rows: 1, columns: 4, region: [64, 64]}",
        "grid.region[0]",
        "must fill 128 pixels with 4 regions at even steps, got 64. Then the canvas has 127 or 130",
    ),
    "grid of few texts": (
        ".yaml",
        CANVAS + "grid: {rows: 1, columns: 3, region: [64, 64], styles: [[dawn, dusk]]}",
        "grid.styles[0]",
        "one per column (3), got 2",
    ),
    # What does not suit the model.
    "unknown style": (".yaml", CANVAS + "style: dwan", "style", "got 'dwan'. Did you mean dawn?"),
    "unknown style of a region": (
        ".yaml",
        CANVAS + _REGION.replace("dawn", "sea"),
        "regions[0].style",
        "(dawn, dusk, forest)",
    ),
    "prompt for styles": (".yaml", CANVAS + "prompt: sea", "prompt", "which reads no words"),
    "unknown patch": (".yaml", CANVAS + "patch: [48, 48]", "patch", "[64, 64], [32, 64], [64, 32], [32, 32]"),
    "wide overlap": (".yaml", CANVAS + "overlap: 64", "overlap[0]", "must be below the patch, 64, got 64"),
    "no such model": (".yaml", CANVAS + "model: nowhere", "model", "must be a bundled model"),
    "model without a commit": (".yaml", CANVAS + "model: owner/name", "model", "OWNER/NAME@REVISION"),
    # Pictures.
    "no such mask": (".yaml", CANVAS + "regions: [{mask: a.png}]", "regions[0].mask", "No such file"),
    "no such guide": (".yaml", CANVAS + "guides: [{image: a.png}]", "guides[0].image", "No such file"),
    "guide that is a folder": (".yaml", CANVAS + "guides: [{image: .}]", "guides[0].image", "must be a file"),
    "guide of another size": (
        ".yaml",
        CANVAS + "guides: [{image: small.png, box: [0, 0, 64, 64]}]",
        "guides[0].image",
        "must be as large as its box, 64 x 64, got 8 x 4",
    ),
    "scene as a guide": (".yaml", CANVAS + "guides: [{image: bad.yaml}]", "guides[0].image", "PNG, JPEG"),
    "guide of strength 2": (
        ".yaml",
        CANVAS + "guides: [{image: small.png, strength: 2}]",
        "guides[0].strength",
        "must be at most 1, got 2",
    ),
    "guide that frees nobody": (
        ".yaml",
        CANVAS + _REGION + "guides: [{image: small.png, free: [region2]}]",
        "guides[0].free[0]",
        "must name a region, got 'region2'. Did you mean region1?",
    ),
}
