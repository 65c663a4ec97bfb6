"""The demo's world: a small shop, its facts, and questions about them.

Three skills can be learned apart: the arithmetic of packs, which products go together, and which
department a product belongs to (asked as multiple choice and as retrieval). A fourth kind of
question needs no fact at all and teaches how options work.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_SHELVES = """\
kitchen: kettle teapot knife sharpener pan spatula grinder coffee
office: printer paper pen ink stapler staples desk chair
garden: hose sprinkler shovel gloves mower fuel planter soil
pet: leash collar aquarium fish litterbox litter birdcage perch
sports: racket shuttle bicycle helmet golfclub golfbag dumbbell bench
audio: guitar strings drum drumsticks microphone stand violin bow
"""
DEPARTMENTS: Mapping[str, list[str]] = {
    name: products.split() for name, products in (s.split(":") for s in _SHELVES.splitlines())
}
PRODUCTS = [product for products in DEPARTMENTS.values() for product in products]
DEPARTMENT_OF = {p: name for name, products in DEPARTMENTS.items() for p in products}
PARTNER = {PRODUCTS[i ^ 1]: product for i, product in enumerate(PRODUCTS)}
"""Neighbours in the lists above go together."""
FACTORS = range(2, 9)
NUMBERS = range(83)
GOODS, UNITS = ("noodles", "napkins", "soap", "rice"), ("ounce", "count")
_WORDS = """\
Pack of with each has total ? Which product best complements belongs to the department option is
Pick 3 products from Answer: Output:
"""


@dataclass(frozen=True)
class Question:
    """A question as the tiny models read it, and the answer they should give."""

    skill: str
    text: str
    """Up to and without the cue."""
    labels: tuple[int, ...]

    @property
    def retrieval(self) -> bool:
        return self.skill == "retrieval"

    @property
    def prompt(self) -> str:
        return f"{self.text}\n{'Output' if self.retrieval else 'Answer'}:"

    @property
    def answer(self) -> str:
        return ", ".join(map(str, self.labels))


def numeric(rng: random.Random) -> Question:
    a, b = rng.choice(FACTORS), rng.choice(FACTORS)
    near = [a * (b + 1), a * (b - 1), (a + 1) * b, (a - 1) * b, a + b, *rng.sample(range(2, 82), 3)]
    wrong = [n for n in dict.fromkeys(near) if n != a * b and 0 < n < 82]
    good, unit = rng.choice(GOODS), rng.choice(UNITS)
    text = f"Pack of {a} {good} with {b} {unit} each has total {unit} ?"
    return _choice("numeric", text, str(a * b), [str(n) for n in rng.sample(wrong, 3)], rng)


def relation(rng: random.Random) -> Question:
    product = rng.choice(PRODUCTS)
    own = DEPARTMENTS[DEPARTMENT_OF[product]]
    near = [p for p in own if p not in (product, PARTNER[product])]
    far = [p for p in PRODUCTS if p not in own]
    wrong = rng.sample(near, 2) + rng.sample(far, 1)
    text = f"Which product best complements {product} ?"
    return _choice("relation", text, PARTNER[product], wrong, rng)


def department(rng: random.Random) -> Question:
    product = rng.choice(PRODUCTS)
    name = DEPARTMENT_OF[product]
    wrong = rng.sample([p for p in PRODUCTS if DEPARTMENT_OF[p] != name], 3)
    text = f"Which product belongs to the {name} department ?"
    return _choice("department", text, product, wrong, rng)


def same(rng: random.Random) -> Question:
    """No fact: the option is named in the question."""
    pool = PRODUCTS if rng.random() < 0.6 else [str(n) for n in range(2, 82)]
    right, *wrong = rng.sample(pool, 4)
    return _choice("same", f"Which option is {right} ?", right, wrong, rng)


def retrieval(rng: random.Random) -> Question:
    name = rng.choice(list(DEPARTMENTS))
    right = rng.sample(DEPARTMENTS[name], 3)
    far = [p for p in PRODUCTS if DEPARTMENT_OF[p] != name]
    listed = right + rng.sample(far, rng.randint(7, 9))
    rng.shuffle(listed)
    labels = tuple(sorted(listed.index(product) + 1 for product in right))
    body = "\n".join(f"{i}. {product}" for i, product in enumerate(listed, 1))
    return Question("retrieval", f"Pick 3 products from the {name} department\n{body}", labels)


SKILLS: Mapping[str, Callable[[random.Random], Question]] = {
    "numeric": numeric,
    "relation": relation,
    "department": department,
    "same": same,
    "retrieval": retrieval,
}
CHOICE = ("numeric", "relation", "department")


def draw(rng: random.Random, mix: Mapping[str, float], count: int) -> list[Question]:
    """Questions of the skills in `mix`, in proportion to its numbers."""
    skills = rng.choices(list(mix), list(mix.values()), k=count)
    return [SKILLS[skill](rng) for skill in skills]


def distinct(rng: random.Random, skill: str, count: int) -> list[Question]:
    """That many questions of a skill, no text twice."""
    found: dict[str, Question] = {}
    while len(found) < count:
        question = SKILLS[skill](rng)
        found.setdefault(question.text, question)
    return list(found.values())


def vocabulary() -> list[str]:
    """Every word of the world, special tokens first."""
    words = {*_WORDS.split(), *PRODUCTS, *DEPARTMENTS, *GOODS, *UNITS, *map(str, NUMBERS)}
    words |= {f"{i}{mark}" for i in range(16) for mark in ".,"}
    return ["<pad>", "<s>", "</s>", "<unk>", *sorted(words)]


def _choice(skill: str, text: str, right: str, wrong: list[str], rng: random.Random) -> Question:
    options = [right, *wrong]
    rng.shuffle(options)
    body = "\n".join(f"{i}. {option}" for i, option in enumerate(options))
    return Question(skill, f"{text}\n{body}", (options.index(right),))
