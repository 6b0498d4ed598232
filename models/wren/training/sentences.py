"""Lines to train on, each one utterance: sentences of 3 to 8 seconds, paragraphs of up to 26, and a few short ones.

They are own templates over word lists, strings of frequent words, numbers, and verses.

python models/wren/training/sentences.py --count 20000 --verses verses.txt > sentences.txt
"""

import argparse
import random
import re
from collections.abc import Callable
from pathlib import Path

import wordfreq

NOUNS = (
    "dog cat man woman girl boy house river tree car door table book letter king queen bird horse city road child "
    "teacher doctor farmer ship train garden window kitchen morning night winter summer friend brother sister mother "
    "father village mountain island forest market bridge school church stone fire water wind snow rain sun moon star "
    "cloud hat coat shoe bag box cup plate knife bread apple cheese egg fish cow sheep rope nail fence board clay "
    "bucket basket candle lamp chair bench blanket pillow ladder hammer wheel engine wagon boat harbor beach shore "
    "valley hill field meadow barn cellar attic roof wall floor corner street square tower castle store shop bank "
    "office paper pencil picture painting song dance story poem game ball stick leaf branch root seed flower grass "
    "weed berry peach pear plum grape lemon onion carrot potato soup stew pie cake sugar salt pepper butter cream "
    "milk coffee tea wine juice glass bottle jar pot pan spoon fork cloth shirt dress skirt glove scarf boot sock "
    "ring chain crown coin purse gift parcel map clock bell drum flute piano violin judge lawyer nurse sailor soldier "
    "pilot driver baker cook clerk guard thief hunter singer dancer writer artist student captain colonel neighbor "
    "stranger crowd team club party meeting lesson answer question problem reason chance plan idea dream promise "
    "secret surprise mistake accident journey trip holiday weather storm thunder lightning fog frost ice sand dust "
    "smoke steam oil gas coal iron steel copper gold silver wood leather wool cotton silk rubber plastic paint"
).split()
ADJECTIVES = (
    "big small red blue green old young happy sad quick slow warm cold dark bright quiet loud heavy light strong weak "
    "kind brave clever tall short new empty full clean dirty hungry thirsty gentle wild soft hard sweet bitter narrow "
    "wide deep smooth rough sharp dull round square thick thin fresh stale ripe raw rich poor cheap costly rare common "
    "strange famous lonely friendly angry calm busy lazy tired eager proud humble honest broken hidden frozen golden "
    "silver wooden distant nearby ancient modern pale vivid crisp damp dry muddy dusty sunny rainy foggy steep flat"
).split()
VERBS = (
    "saw found took left lost made kept held moved carried followed watched opened closed painted cleaned washed "
    "bought sold broke fixed pushed pulled liked loved wanted needed heard met called chose drew drove threw caught "
    "hid shook tore wore built burned covered crossed dragged dropped filled folded gathered hung lifted loaded marked "
    "packed placed planted poured raised reached sewed shaped split spread stirred stole struck tied touched turned"
).split()
MOVES = (
    "walked ran slept waited laughed cried smiled stopped stood sat turned jumped fell sang danced spoke listened "
    "worked played hurried wandered climbed slipped slid rolled drifted rested knelt whispered shouted arrived"
).split()
PLACES = "in near behind under over across beside by inside past from around above below along through".split()
ADVERBS = (
    "slowly quickly quietly gently suddenly carefully often always never again today yesterday early late together "
    "alone"
).split()
OPENERS = [
    "in the morning", "last week", "after lunch", "when the rain stopped", "at the end of the day", "as we all know",
    "to be honest", "on the way home", "a few years ago", "before the sun came up", "every now and then", "of course",
    "this afternoon", "in the middle of the night", "as soon as possible", "for the first time", "in those days",
]  # fmt: skip
CLAUSES = [
    "because {s}", "while {s}", "but {s}", "and {s}", "so {s}", "although {s}", "when {s}", "before {s}", "after {s}",
    "if {s}", "until {s}", "and then {s}", "which is why {s}",
]  # fmt: skip
GREETINGS = [
    "hello", "hi", "good morning", "good evening", "good night", "thank you", "thanks", "yes", "no", "maybe", "okay",
    "please", "of course", "see you soon", "goodbye", "welcome", "how are you", "never mind", "well done", "I see",
    "excuse me", "all right", "not yet", "what is it", "who is there", "come in", "I am here", "this is a test",
]  # fmt: skip
NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million"
).split()
DAYS = (
    "January February March April May June July August September October November December Monday Tuesday Wednesday "
    "Thursday Friday Saturday Sunday"
).split()
ORDINALS = "first second third fourth fifth tenth twelfth twentieth thirtieth".split()
FRAMES = [
    "there {be} {number} {noun}s {place} the {noun}", "{name} said that {s}", "{name} asked whether {s}",
    "what did {name} {action} {place} the {noun}", "why is {thing} so {adjective}", "it was {thing} that {s}",
    "if {s}, then {s}", "the more {name} {moved}, the more {adjective} {thing} became",
    "neither {thing} nor {thing} {moved}", "{thing} costs {money}", "about {share} percent of the {noun}s {moved}",
    "{name} was born in {year}", "in {year}, {s}", "the {noun} opens at {time} and closes at {time}",
    "turn to page {number}", "{name} lives at {number} {noun} street", "it is {number} kilometers to {name}",
    "on {date}, {s}", "{thing}, {thing} and {thing} {moved} {place} the {noun}",
    "{name}, who {moved} {place} the {noun}, {verb} {thing}", "I {do_not} think that {s}", "you {do_not} {action} it",
    "that is {adjective}, {adjective} and {adjective}", "the {noun} is {adjective} than {thing}",
    "call {digits} and ask for {name}", "{number} plus {number} is {number}", "the {ordinal} of {number} {noun}s",
]  # fmt: skip
NAMES = (
    "Anna Ben Clara David Emma Frank Grace Henry Irene Jack Kate Leo Maria Nora Oscar Paul Rose Sam Tom Victor Alice "
    "Peter Laura Simon Julia Martin Helen George Lucy Robert London Paris Boston Rome Chicago Texas Canada India"
).split()
NEGATIONS = "do not, don't, didn't, cannot, can't, won't, shouldn't, wouldn't, couldn't, never".split(", ")
COMMANDS = ["turn on", "turn off", "set", "play", "stop", "start", "show", "read", "send", "cancel", "open", "close"]
REQUESTS = [
    "can you", "please", "do not", "will they", "we should", "I would like to", "she wants to", "he tried to", "let us",
    "you must", "could you", "they plan to", "I had to", "nobody wants to", "it is easy to", "remember to",
]  # fmt: skip
ACTIONS = [
    "open", "close", "find", "bring", "take", "move", "clean", "call", "watch", "follow", "help", "show me", "give me",
    "look at", "think about", "talk about", "write about", "pay for", "ask for", "wait for", "listen to", "cut", "fold",
]  # fmt: skip


class Writer:
    """Writes random sentences from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.words = [w for w in wordfreq.top_n_list("en", 20000) if re.fullmatch(r"[a-z]{2,}", w)]
        self.weights = [1 / (rank + 60) ** 0.65 for rank in range(len(self.words))]

    def any(self, choices: list[str]) -> str:
        return self.random.choice(choices)

    def noun(self) -> str:
        """Most come from the list, the others from all frequent words, for the sake of their sounds."""
        return self.any(NOUNS) if self.random.random() < 0.6 else self.frequent(1)

    def frequent(self, count: int) -> str:
        return " ".join(self.random.choices(self.words, self.weights, k=count))

    def thing(self) -> str:
        start = self.any("the the the a this that my your his her our their every some one no".split())
        adjective = self.any(ADJECTIVES) + " " if self.random.random() < 0.5 else ""
        return f"{start} {adjective}{self.noun()}"

    def number(self) -> str:
        """A number in digits, as often small as large; some with a decimal."""
        size = self.random.choice([10, 100, 1000, 10000, 1000000])
        value = self.random.randrange(size)
        return f"{value}.{self.random.randrange(10)}" if self.random.random() < 0.1 else f"{value:,}"

    def framed(self) -> str:
        """A frame with its gaps filled."""
        fill: dict[str, Callable[[], str]] = {
            "be": lambda: self.any(["are", "were"]), "number": self.number, "noun": self.noun, "thing": self.thing,
            "place": lambda: self.any(PLACES), "name": lambda: self.any(NAMES), "s": self.plain_clause,
            "action": lambda: self.any(ACTIONS), "adjective": lambda: self.any(ADJECTIVES),
            "moved": lambda: self.any(MOVES), "verb": lambda: self.any(VERBS), "do_not": lambda: self.any(NEGATIONS),
            "money": lambda: self.any("$£€") + self.number(), "share": lambda: str(self.random.randint(1, 99)),
            "year": lambda: str(self.random.randint(1000, 2030)), "ordinal": lambda: self.any(ORDINALS),
            "time": lambda: f"{self.random.randint(1, 12)} {self.any(['thirty', 'fifteen', 'forty five', '20', ''])}",
            "date": lambda: f"{self.any(DAYS)} {self.random.randint(1, 31)}",
            "digits": lambda: " ".join(str(self.random.randrange(10)) for _ in range(self.random.randint(3, 7))),
        }  # fmt: skip
        return re.sub(r"{(\w+)}", lambda gap: fill[gap[1]](), self.any(FRAMES)).replace(" ,", ",").strip()

    def clause(self) -> str:
        """A plain clause, or a frame around one."""
        return self.framed() if self.random.random() < 0.35 else self.plain_clause()

    def plain_clause(self) -> str:
        """One plain statement, request, list or string of words."""
        kind = self.random.random()
        if kind < 0.3:
            return f"{self.thing()} {self.any(VERBS)} {self.thing()}"
        if kind < 0.45:
            return f"{self.thing()} {self.any(MOVES)} {self.any(PLACES)} the {self.noun()}"
        if kind < 0.55:
            return (
                f"{self.thing()} of {self.noun()} {self.any(['is', 'was', 'seems', 'looked'])} {self.any(ADJECTIVES)}"
            )
        if kind < 0.64:
            return f"{self.any(REQUESTS)} {self.any(ACTIONS)} {self.thing()}"
        if kind < 0.68:
            return f"{self.any(COMMANDS)} the {self.frequent(1)} at {self.any(NUMBERS)} on {self.any(DAYS)}"
        if kind < 0.72:
            return " ".join(self.random.choices(NUMBERS, k=self.random.randint(3, 6)))
        if kind < 0.76:
            date = f"{self.any(DAYS)} the {self.any(ORDINALS)}"
            return f"we met on {date} with {self.random.randint(2, 999)} {self.noun()}s"
        return self.frequent(self.random.randint(4, 8))

    def sentence(self) -> str:
        """8 to 22 words, one or two sentences."""
        while True:
            text = self.clause()
            if self.random.random() < 0.3:
                text = f"{self.any(OPENERS)}, {text}"
            if self.random.random() < 0.3:
                text += " " + self.any(ADVERBS)
            ending = self.any([".", ".", ".", ".", "!", "?"])
            while len(text.split()) < 8 or self.random.random() < 0.35:
                if self.random.random() < 0.6:
                    text += self.any([", ", " "]) + self.any(CLAUSES).format(s=self.clause())
                else:
                    text += ". " + self.clause().capitalize()
            if len(text.split()) <= 22:
                return text[0].upper() + text[1:] + ending

    def paragraph(self) -> str:
        """Several sentences of 24 to 75 words together."""
        words, text = self.random.randint(24, 75), ""
        while len(text.split()) < words:
            text += (self.short() if self.random.random() < 0.2 else self.sentence()) + " "
        return " ".join(text.split()[:75])

    def short(self) -> str:
        """1 to 6 words."""
        kind = self.random.random()
        if kind < 0.3:
            text = self.any(GREETINGS)
            if self.random.random() < 0.4:
                text += self.any([", ", " "]) + self.frequent(1)
        elif kind < 0.5:
            text = " ".join(self.random.choices(NUMBERS, k=self.random.randint(1, 4)))
        elif kind < 0.75:
            text = f"{self.thing()} {self.any(['is', 'was', 'seems'])} {self.any(ADJECTIVES)}"
        else:
            text = self.frequent(self.random.randint(1, 4))
        return text[0].upper() + text[1:] + self.any([".", ".", ".", "!", "?"])


def verses(file: Path, writer: Writer) -> list[str]:
    """Public-domain text of one verse a line, in runs of 8 to 70 words."""
    lines = [re.sub(r"^[^A-Z]*", "", line.strip()) for line in file.read_text(encoding="utf-8").splitlines()]
    found, run, wanted = list[str](), "", 0
    for line in lines:
        run, wanted = f"{run} {line}".strip(), wanted or writer.random.choice([8, 8, 8, 24, 40, 55])
        if len(run.split()) >= wanted:
            found, run, wanted = [*found, run], "", 0
    return [run for run in found if len(run.split()) <= 70]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--verses", type=Path, help="a public-domain text, one verse a line")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    writer, count = Writer(options.seed), options.count
    texts = {writer.sentence() for _ in range(count // 2)}
    texts |= {writer.paragraph() for _ in range(count // 5)}
    texts |= {writer.short() for _ in range(count // 12)}
    if options.verses:
        found = verses(options.verses, writer)
        texts |= set(writer.random.sample(found, min(len(found), count // 5)))
    ordered = sorted(texts)
    writer.random.shuffle(ordered)
    print("\n".join(ordered))


if __name__ == "__main__":
    main()
