"""What the shop sells: products, stock, search, baskets and invoices.

The products live in memory, their stock in SQLite. Nothing here knows HTTP or profiling. The data come from a
fixed seed, so that every run of the shop sells the same things and answers the same bytes.

One line of `Catalogue.search` is slow on purpose, and only for queries that leave a word out ("cotton -sale"): it is
what `make demo` has to find.
"""

import csv
import hashlib
import io
import json
import random
import sqlite3
import threading
import time
import zlib

SIZE = 6000
PAGE = 20
COLOURS = ("red", "blue", "green", "black", "white", "grey", "ochre", "teal")
MATERIALS = ("cotton", "wool", "linen", "leather")
SEASONS = ("spring", "summer", "autumn", "winter")
KINDS = (
    "shirt", "coat", "scarf", "glove", "boot", "sandal", "belt", "hat",
    "jacket", "sock", "dress", "skirt", "jumper", "apron", "cape", "bag",
)  # fmt: skip
SIGNING_ROUNDS = 12_000
PAYMENT_SECONDS = 0.06


class Product:
    __slots__ = ("number", "name", "price", "words", "rating", "votes")

    def __init__(self, number, words, price, rating, votes):
        self.number = number
        self.name = " ".join(words)
        self.price = price
        self.words = frozenset(words)
        self.rating = rating
        self.votes = votes


def parse_query(query):
    """'cotton -sale' is every product with the word cotton, without those that have the word sale."""
    wanted, unwanted = set(), set()
    for word in query.lower().split():
        if word.startswith("-"):
            unwanted.add(word[1:])
        else:
            wanted.add(word)
    return wanted, unwanted


class Catalogue:
    def __init__(self, size=SIZE, seed=1847):
        dice = random.Random(seed)
        self.products = [self._invent(dice, number) for number in range(1000, 1000 + size)]
        self.by_number = {product.number: product for product in self.products}
        # One connection for all threads; the lock is for the cached statement, which two of them must not use at once.
        self.database_lock = threading.Lock()
        self.database = sqlite3.connect(":memory:", check_same_thread=False)
        self.database.execute("CREATE TABLE stock (number INTEGER PRIMARY KEY, pieces INTEGER)")
        self.database.executemany(
            "INSERT INTO stock VALUES (?, ?)",
            [(product.number, dice.randrange(40)) for product in self.products],
        )
        self.database.commit()

    @staticmethod
    def _invent(dice, number):
        words = [dice.choice(COLOURS), dice.choice(MATERIALS), dice.choice(SEASONS), dice.choice(KINDS)]
        if dice.random() < 0.5:
            words.append("sale")
        return Product(number, words, dice.randrange(500, 20_000), dice.random() * 5, dice.randrange(900))

    def stock(self, number):
        with self.database_lock:
            row = self.database.execute("SELECT pieces FROM stock WHERE number = ?", (number,)).fetchone()
        return row[0] if row else 0

    def featured(self, count=PAGE):
        """The best rated of this season; the average is pulled to 2.5 for products with few votes."""
        scored = []
        for product in self.products[::8]:
            weight = product.votes / (product.votes + 50)
            scored.append((weight * product.rating + (1 - weight) * 2.5, product.number))
        scored.sort(reverse=True)
        return [self.by_number[number] for _, number in scored[:count]]

    def similar(self, product, count=6):
        """Products that share the most words with this one."""
        scored = []
        for other in self.products[product.number % 7 :: 7]:
            shared = len(product.words & other.words)
            if shared > 1 and other is not product:
                scored.append((-shared, abs(other.price - product.price), other.number))
        scored.sort()
        return [self.by_number[number] for _, _, number in scored[:count]]

    def search(self, query):
        wanted, unwanted = parse_query(query)
        found = [product for product in self.products if wanted <= product.words]
        hidden = []
        if unwanted:
            hidden = [product.number for product in self.products if product.words & unwanted]
        # planted: the next line looks through a list where a set belongs; make demo must name it
        kept = [product for product in found if product.number not in hidden]
        kept.sort(key=lambda product: product.price)
        return kept

    def export(self, rows_a_chunk=200):
        """The whole catalogue as CSV, piece by piece."""
        for start in range(0, len(self.products), rows_a_chunk):
            text = io.StringIO()
            writer = csv.writer(text)
            if start == 0:
                writer.writerow(("number", "name", "price"))
            for product in self.products[start : start + rows_a_chunk]:
                writer.writerow((product.number, product.name, f"{product.price / 100:.2f}"))
            yield text.getvalue()


def sign(order):
    """A signature that is slow to forge: C code that gives up the GIL while it works."""
    text = json.dumps(order, sort_keys=True).encode()
    return hashlib.pbkdf2_hmac("sha256", text, b"shop", SIGNING_ROUNDS).hex()


def charge(order):
    """Ask the payment provider, who takes his time."""
    time.sleep(PAYMENT_SECONDS)
    return {"paid": order["total"], "signature": sign(order)}


def invoice(catalogue, number):
    """A year of orders as compressed JSON: C code all the way."""
    dice = random.Random(number)
    lines = [
        {"product": product.number, "name": product.name, "pieces": 1 + product.number % 3, "price": product.price}
        for product in dice.sample(catalogue.products, 400)
    ]
    text = json.dumps({"invoice": number, "lines": lines}, indent=1)
    return zlib.compress(text.encode(), 9)
