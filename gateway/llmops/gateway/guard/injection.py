"""Looks for prompt injection: words that try to become instructions where only data belongs.

Rules on folded text, each with a name; English throughout, the commonest of them in German, French, Spanish and Italian
too. They find the known phrasings in what users say and in what tools and documents bring. They cannot find: an attack
put in other words, in another language, encoded, in pictures, spread over messages, or one that is only out of place.
A clean verdict is no proof; rights must not depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmops.gateway.guard.detectors import rust_matcher
from llmops.gateway.guard.folding import fold

# In a rule a space stands for whatever stands between two words, `...` for up to four words and what follows them.
_RULES: Mapping[str, tuple[str, ...]] = {
    # "ignore all previous instructions", "disregard the above", "vergiss alle bisherigen Anweisungen"
    "override": (
        r"\b(ignore|disregard|forget|override|bypass|discard|do not follow|stop following) ..."
        r"(previous|prior|preceding|above|earlier|initial|original|system|existing|former|foregoing) "
        r"(\w+ ){0,2}(instruction|prompt|rule|direction|directive|guideline|command|constraint|message|context)s?\b",
        r"\b(ignore|disregard|forget) (all|any|every|everything|your|the) (of )?(your |the |my |these )?"
        r"(instruction|rule|guideline|directive|constraint|restriction|safety \w+|guardrail|training)s?\b",
        r"\b(ignore|disregard|forget) (all|everything) (that )?((you|i) (\w+ ){1,3})?"
        r"(above|before|prior|previously|earlier)\b",
        r"\b(ignoriere?|vergiss|missachte) ...(anweisung|instruktion|regel|vorgabe|befehl)(en|e|n)?\b",
        r"\b(ignore[rz]?|oublie[rz]?) ...(consignes?|regles?|directives?|instructions?) (\w+ )?"
        r"(precedentes?|anterieures?|ci)\b",
        r"\b(ignora|olvida|omite|dimentica) ...(instrucciones|reglas|ordenes|istruzioni|regole)\b",
    ),
    # "new instructions: ...", "from now on you must obey", "your real task is to"
    "replace": (
        r"\b(new|updated|revised|real|actual|true) (system )?(instruction|prompt|directive|rule|order|task)s?"
        r"[ \t]{0,3}:",
        r"\bfrom now on you (are|will|must|shall|should) ..."
        r"(ignore|unrestricted|no longer|without|anything|never refuse|obey)\b",
        r"\byour (new|only|real) (goal|task|purpose|job|objective|role|instruction)s? (is|are) (now|to) ",
    ),
    # "reveal your system prompt", "repeat the words above"
    "reveal": (
        r"\b(reveal|print|show|repeat|output|display|leak|disclose|dump|recite|expose|tell me|give me|what is"
        r"|what are|what was|what were|send|paste|copy) (me )?"
        r"((all|verbatim|exactly|of|back|out|the|entire|full|complete) ){0,4}"
        r"your ((hidden|initial|original|secret|full|exact|own|entire) ){0,2}"
        r"(system (prompt|message|instruction)s?|(hidden |initial |original |secret )?(prompt|instruction)s?)\b",
        r"\b(repeat|print|output|copy|recite) (me )?((all|everything|the|words|text|exactly|every|word) ){1,4}"
        r"(above|before this)\b",
        r"\b(reveal|leak|print|dump|show me|disclose|output) (the|its) ((hidden|secret|full) ){0,2}"
        r"system (prompt|message|instruction)s?\b",
    ),
    # "you are DAN", "developer mode enabled", "act as if you had no restrictions"
    "persona": (
        r"\byou are (now )?(going to (act as|pretend to be) )?(an )?"
        r"(dan|stan|evil|unrestricted|jailbroken|unfiltered|uncensored)\b",
        r"\b(do anything now|jailbreak mode|developer mode (enabled|activated|v2)"
        r"|(enter|enable|activate) (developer|god|sudo|debug|dan|jailbreak|unrestricted) mode)\b",
        r"\b(act|pretend|behave|respond|answer|roleplay|imagine) ...(no|without|without any|free of|free from) "
        r"(\w+ ){0,2}(restriction|filter|guideline|limitation|ethic|moral|censorship|safeguard)s?\b",
    ),
    # "<|im_start|>system", "[INST]", "</system>", "### System:"
    "markup": (
        r"<\|(im_start|im_end|system|user|assistant|endoftext|start_header_id|eot_id)\|>",
        r"\[/?inst\]|<<\s{0,3}/?sys\s{0,3}>>|</?(system|system_prompt|instructions?)>",
        r"(^|\n)\s{0,9}#{2,6}\s{0,3}(system|new\sinstructions?)\s{0,3}:",
        r"(^|\n)\s{0,9}(system|developer)(\s(message|prompt))?\s{0,3}:\s{0,3}(you|ignore|new|the\suser)",
    ),
    # a document that speaks to the model that reads it
    "address": (
        r"\b(attention|note|notice|important|message|instructions?) (to|for) (the |any |all )?"
        r"(ai|llm|language model|chatbot|assistant|gpt|claude|gemini|agent)(s| (model|assistant|agent|system)s?)?\b",
        r"\battention (the |any |all |dear )?(ai|llm|language model|chatbot|assistant)\b",
        r"\bif you are an? (ai|llm|large language model|language model|assistant|chatbot)\b",
        r"\b(ai|assistant|llm|model) (must|should|shall) (now )?"
        r"(ignore|forward|send|email|delete|execute|transfer|reveal|disregard|exfiltrate)\b",
        r"\b(do not|don t|dont|never) (tell|inform|mention|alert|notify|reveal) (this |it )?"
        r"(to )?(the )?(user|human)\b",
    ),
    # data carried out by a picture with something to fill in, or by a message to somewhere
    "exfiltrate": (
        r"!\[[^\]]{0,100}\]\(\s{0,3}https?://[^)\s]{1,200}[?&/=][^)\s]{0,100}(\{|\[|<|%7b|\$)",
        r"\b(send|post|forward|upload|transmit|email|exfiltrate|append|encode) ..."
        r"(conversation|chat history|api keys?|passwords?|credentials|system prompt|user data|secrets?) ..."
        r"(to|at|into|as|in) (\w+ ){0,3}"
        r"(https?|url|www|mailto|webhook|server|endpoint|\w+@)",
    ),
}


class Injection:
    """The rules: one automaton to ask whether any applies, and one each to say which."""

    def __init__(self) -> None:
        rules = {name: "|".join(map(_spelled_out, rules)) for name, rules in _RULES.items()}
        self._rules = [(name, rust_matcher(pattern)) for name, pattern in rules.items()]
        self._any = rust_matcher("|".join(rules.values()))

    def find(self, text: str) -> list[str]:
        """The names of the rules that apply."""
        folded = fold(text)
        return [name for name, matches in self._rules if matches(folded)] if self._any(folded) else []


def _spelled_out(rule: str) -> str:
    """A rule as Rust's engine takes it; with classes of ASCII, which folded text mostly is, a fiftieth of the size."""
    between = "[^a-z0-9]{1,6}"
    spaced = rule.replace("[ \\t]", "[\\x20\\t]").replace(" ", between).replace("...", rf"(?:\w+{between}){{0,4}}")
    grouped = spaced.replace(r"\[", "\x00").replace(r"\(", "\x01").replace("(?:", "(").replace("(", "(?:")
    restored = grouped.replace("\x00", r"\[").replace("\x01", r"\(")
    return restored.replace(r"\w", "[a-z0-9_]").replace(r"\b", r"(?-u:\b)").replace(r"\s", r"[\x20\t\r\n]")
