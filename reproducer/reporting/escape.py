"""Escaping of values, for Markdown and LaTeX.

A template of the report is Markdown. Whatever it prints is escaped unless it is `Raw`: a macro's
result, or a table.
"""

import re
import unicodedata
from typing import Any


class Raw(str):
    """Text that is Markdown already and is printed as it is."""

    __slots__ = ()


# An absolute path of at least two parts; the slash of "w/o", "E1/E2" or "https://host" does not begin one.
_PATH = re.compile(
    r"(?:(?<![\w.:/\\~])|(?<=file://))(?:~?/|~\\)(?:[^\s/\\:'\"<>|`]+[/\\])+([^\s/\\:'\"<>|`]*)"
    r"|\b[A-Za-z]:[/\\](?:[^\s/\\:'\"<>|`]+[/\\])*([^\s/\\:'\"<>|`]*)"
)


def without_paths(text: str) -> str:
    """Absolute paths of a machine cut down to their last part: `/home/me/models/llama` -> `…/llama`."""
    return _PATH.sub(lambda found: "…/" + (found[1] or found[2] or ""), text)


def one_line(value: Any) -> str:
    """`value` as text on one line: None is a dash, control characters are dropped, paths shortened."""
    text = "–" if value is None else without_paths(str(value))
    kept = (" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c) not in {"Cc", "Cf", "Cs"})
    return " ".join("".join(kept).split())


def escape_markdown(value: Any) -> Raw:
    """`value` as inline Markdown (CommonMark with GitHub's tables, maths and links) that reads as it was given."""
    if isinstance(value, Raw):
        return value
    text = re.sub(r"([\\`*_\[\]<>|~$])", r"\\\1", one_line(value)).replace("&", "&amp;").replace("![", r"\![")
    text = re.sub(r"(?<=\w):(?=//)", r"\\:", text)  # GitHub makes links of bare addresses
    text = re.sub(r"\bwww\.", r"www\\.", text, flags=re.IGNORECASE)
    text = re.sub(r"(?<=\w)@(?=\w)", r"\\@", text)
    # at the start of a list item or paragraph these would begin a heading, a list or a rule
    text = re.sub(r"^([#+=-])(?=\1*(\s|$))", r"\\\1", text)
    return Raw(re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", text))


_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": "'{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # after \\ or \item a bracket would be an argument
    "]": "{]}",
    "-": "{-}",  # no ligature of two hyphens into a dash
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "‘": "`",
    "’": "'",
    "“": r"\textquotedblleft{}",
    "”": r"\textquotedblright{}",
    "·": r"$\cdot$",
    "\u2044": "/",  # what ½ is made of
    "•": r"\textbullet{}",
    "\u2009": r"\,",
}
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "ζ": "zeta", "η": "eta", "θ": "theta",
    "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma",
    "τ": "tau", "υ": "upsilon", "φ": "varphi", "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma", "Δ": "Delta",
    "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
_SIGNS = {
    "←": "leftarrow", "↑": "uparrow", "→": "rightarrow", "↓": "downarrow", "↔": "leftrightarrow", "⇒": "Rightarrow",
    "±": "pm", "×": "times", "÷": "div", "≤": "leq", "≥": "geq", "≠": "neq", "≈": "approx", "∞": "infty", "∈": "in",
    "∑": "sum", "√": "surd",
}  # fmt: skip
_TEX.update({char: f"$\\{name}$" for char, name in (_GREEK | _SIGNS).items()})
_TEX["−"] = "$-$"
_NOT_IN_T1 = "ĦħĸĿŀŉŦŧ"  # the accented letters up to ž that LaTeX's T1 fonts do not have
_TEX.update({char: f"$_{i}$" for i, char in enumerate("₀₁₂₃₄₅₆₇₈₉")})
_TEX.update({char: f"$^{i}$" for i, char in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")})
_TEX["⁻"] = "$^{-}$"


def _tex_character(char: str) -> str:
    if char in _TEX:
        return _TEX[char]
    if char.isascii() or ("À" <= char <= "ž" and char not in _NOT_IN_T1) or char in "¡¿£§":
        return char
    plain = unicodedata.normalize("NFKD", char)
    if plain != char:  # ﬁ -> fi, ḡ -> g with its mark dropped
        return "".join(_tex_character(c) for c in plain if not unicodedata.combining(c))
    if unicodedata.combining(char):
        return ""
    return rf"\texttt{{U+{ord(char):04X}}}"


def escape_tex(text: str) -> str:
    """`text` as LaTeX that reads as it was given; characters without a glyph appear as their code point."""
    return "".join(c if c.isspace() else _tex_character(c) for c in text)
