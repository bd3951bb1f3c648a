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

_G = r"[^a-z0-9]{1,6}"  # between two words
_ANY = rf"(?:\w+{_G}){{0,4}}"
_RULES: Mapping[str, str] = {
    # "ignore all previous instructions", "disregard the above", "vergiss alle bisherigen anweisungen"
    "override": "|".join((
        rf"\b(?:ignore|disregard|forget|override|bypass|discard|do{_G}not{_G}follow|stop{_G}following){_G}{_ANY}"
        rf"(?:previous|prior|preceding|above|earlier|initial|original|system|existing|former|foregoing){_G}"
        rf"(?:\w+{_G}){{0,2}}(?:instruction|prompt|rule|direction|directive|guideline|command|constraint|message|context)s?\b",
        rf"\b(?:ignore|disregard|forget){_G}(?:all|any|every|everything|your|the){_G}(?:of{_G})?(?:your{_G}|the{_G}|my{_G}|these{_G})?"
        rf"(?:instruction|rule|guideline|directive|constraint|restriction|safety{_G}\w+|guardrail|training)s?\b",
        rf"\b(?:ignore|disregard|forget){_G}(?:all|everything){_G}(?:that{_G}|you{_G}\w+{_G}|i{_G}\w+{_G})?(?:above|before|prior|previously|earlier)\b",
        rf"\b(?:ignoriere?|vergiss|missachte){_G}{_ANY}(?:anweisung|instruktion|regel|vorgabe|befehl)(?:en|e|n)?\b",
        rf"\b(?:ignore[rz]?|oublie[rz]?){_G}{_ANY}(?:consignes?|regles?|directives?|instructions?){_G}(?:\w+{_G})?(?:precedentes?|anterieures?|ci)\b",
        rf"\b(?:ignora|olvida|omite|dimentica){_G}{_ANY}(?:instrucciones|reglas|ordenes|istruzioni|regole)\b",
    )),
    # "new instructions: ...", "your real task is now ..."
    "replace": "|".join((
        rf"\b(?:new|updated|revised|real|actual|true){_G}(?:system{_G})?(?:instruction|prompt|directive|rule|order|task)s?\s*(?::|\bis\b{_G}now|\bare\b{_G}now)",
        rf"\bfrom{_G}now{_G}on,?{_G}you{_G}(?:are|will|must|shall|should){_G}{_ANY}(?:ignore|unrestricted|no{_G}longer|without|anything|never{_G}refuse|obey)\b",
        rf"\byour{_G}(?:new|only|real){_G}(?:goal|task|purpose|job|objective|role|instruction)s?{_G}(?:is|are){_G}(?:now|to){_G}",
    )),
    # "reveal your system prompt", "repeat the words above"
    "reveal": "|".join((
        rf"\b(?:reveal|print|show|repeat|output|display|leak|disclose|dump|recite|expose|tell{_G}me|give{_G}me|what{_G}(?:is|are|was|were)|send|paste|copy){_G}"
        rf"(?:me{_G})?(?:(?:all|verbatim|exactly|of|back|out|the|entire|full|complete){_G}){{0,4}}your{_G}"
        rf"(?:(?:hidden|initial|original|secret|full|exact|own|entire){_G}){{0,2}}(?:system{_G}(?:prompt|message|instruction)s?|(?:hidden|initial|original|secret)?{_G}?(?:prompt|instruction)s?)\b",
        rf"\b(?:repeat|print|output|copy|recite){_G}(?:me{_G})?(?:(?:all|everything|the|words|text|exactly|every|word){_G}){{1,4}}(?:above|before{_G}this)\b",
        rf"\b(?:reveal|leak|print|dump|show{_G}me|disclose|output){_G}(?:the|its){_G}(?:(?:hidden|secret|full){_G}){{0,2}}system{_G}(?:prompt|message|instruction)s?\b",
    )),
    # "you are DAN", "developer mode enabled", "pretend you have no restrictions"
    "persona": "|".join((
        rf"\byou{_G}are{_G}(?:now{_G})?(?:going{_G}to{_G}(?:act|pretend){_G}(?:as|to{_G}be){_G})?(?:dan|stan|dude|aim|evil|unrestricted|jailbroken|unfiltered|an{_G}unrestricted)\b",
        rf"\b(?:do{_G}anything{_G}now|jailbreak{_G}mode|developer{_G}mode{_G}(?:enabled|on|activated|v2)|(?:enter|enable|activate){_G}(?:developer|god|sudo|debug|dan|jailbreak|unrestricted){_G}mode)\b",
        rf"\b(?:act|pretend|behave|respond|answer|roleplay|imagine){_G}{_ANY}(?:no|without{_G}(?:any)?|free{_G}of|free{_G}from){_G}{{0,1}}(?:\w+{_G}){{0,2}}(?:restriction|filter|guideline|limitation|rule|ethic|moral|censorship|safeguard)s?\b",
    )),
    # "<|im_start|>system", "[INST]", "</system>", "### System:"
    "markup": r"<\|(?:im_start|im_end|system|user|assistant|endoftext|start_header_id|eot_id)\|>|\[/?inst\]|<<\s*/?sys\s*>>"
    r"|</?(?:system|system_prompt|instructions?)>|(?:^|\n)\s*#{2,}\s*(?:system|new instructions?)\s*:|(?:^|\n)\s*(?:system|developer)\s*(?:message|prompt)?\s*:\s*(?:you|ignore|new|the user)",
    # a document that speaks to the model that reads it
    "address": "|".join((
        rf"\b(?:attention|note|notice|important|message|instructions?){_G}(?:to|for){_G}(?:the{_G}|any{_G}|all{_G})?(?:ai|llm|language{_G}model|chatbot|assistant|gpt|claude|gemini|agent)(?:s|{_G}(?:model|assistant|agent|system)s?)?\b",
        rf"\bif{_G}you{_G}are{_G}an?{_G}(?:ai|llm|large{_G}language{_G}model|language{_G}model|assistant|chatbot)\b",
        rf"\b(?:ai|assistant|llm|model){_G}(?:must|should|shall){_G}(?:now{_G})?(?:ignore|forward|send|email|delete|execute|transfer|reveal|disregard|exfiltrate)\b",
        rf"\b(?:do{_G}not|don{_G}?t|never){_G}(?:tell|inform|mention|alert|notify|reveal){_G}(?:this{_G}|it{_G})?(?:to{_G})?(?:the{_G})?(?:user|human){_G}(?:about|that|this|of)?",
    )),
    # data carried out by a picture or link with something to fill in
    "exfiltrate": "|".join((
        r"!\[[^\]]{0,200}\]\(\s*https?://[^)\s]{1,300}[?&/=][^)\s]{0,200}(?:\{|\[|<|%7b|\$)[^)]{0,200}\)",
        rf"\b(?:send|post|forward|upload|transmit|email|exfiltrate|append|encode){_G}{_ANY}(?:conversation|chat{_G}history|api{_G}keys?|passwords?|credentials|system{_G}prompt|user{_G}data|secrets?){_G}{_ANY}(?:to|at|into|as|in){_G}(?:\w+{_G}){{0,3}}(?:https?|url|www|mailto|webhook|server|endpoint|\w+@)",
    )),
}  # fmt: skip


class Injection:
    """The rules, one automaton to ask whether any applies, and one each to say which."""

    def __init__(self) -> None:
        rules = {name: _ascii(pattern) for name, pattern in _RULES.items()}
        self._rules = [(name, rust_matcher(pattern)) for name, pattern in rules.items()]
        self._any = rust_matcher("|".join(f"(?:{pattern})" for pattern in rules.values()))

    def find(self, text: str) -> list[str]:
        """The names of the rules that apply."""
        folded = fold(text)
        return [name for name, matches in self._rules if matches(folded)] if self._any(folded) else []


def _ascii(pattern: str) -> str:
    """Classes of ASCII alone: in folded text they lose next to nothing, and the automata are a fiftieth of the size."""
    return pattern.replace(r"\w", "[a-z0-9_]").replace(r"\b", r"(?-u:\b)").replace(r"\s", r"[ \t\r\n]")
