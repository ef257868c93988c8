from __future__ import annotations
def equation_text(eq):
    return f"{eq.target} = {eq.body}"
def program_text(p):
    return "\n".join(map(str,p.equations))
