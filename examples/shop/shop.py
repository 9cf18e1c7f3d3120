"""A small shop, profiled by one line (marked below).

Run it by hand:    SHOP_PROFILES=profiles.jsonl gunicorn -c gunicorn.conf.py
and then:          python load.py http://127.0.0.1:8000 && python -m profilomatic report profiles.jsonl
"""

import os

from flask import Flask, Response, abort, render_template, request

import profilomatic
import profilomatic.wsgi
from catalogue import PAGE, Catalogue, charge, invoice

VOUCHERS = {"SPRING": 10, "LOYAL": 15}


def create_app():
    """The shop as it was before anyone thought of profiling."""
    app = Flask(__name__)
    catalogue = Catalogue()

    @app.get("/")
    def home():
        return render_template("home.html", products=catalogue.featured())

    @app.get("/product/<int:number>")
    def product(number):
        item = catalogue.by_number.get(number) or abort(404)
        return render_template(
            "product.html", product=item, pieces=catalogue.stock(number), similar=catalogue.similar(item)
        )

    @app.get("/search")
    def search():
        query = request.args.get("q", "")
        found = catalogue.search(query)
        return render_template("search.html", query=query, count=len(found), products=found[:PAGE])

    @app.post("/checkout")
    def checkout():
        numbers = request.form.getlist("product", type=int)
        total = sum(catalogue.by_number[number].price for number in numbers if number in catalogue.by_number)
        return charge({"products": numbers, "total": total})

    @app.get("/invoice/<int:number>")
    def show_invoice(number):
        body = invoice(catalogue, number)
        return Response(body, mimetype="application/json", headers={"Content-Encoding": "deflate"})

    @app.get("/voucher/<code>")
    def voucher(code):
        return {"code": code, "percent": VOUCHERS[code]}  # an unknown code is an error of ours: 500

    @app.get("/catalogue.csv")
    def export():
        return Response(catalogue.export(), mimetype="text/csv")

    return app


app = create_app()
app.wsgi_app = profilomatic.wsgi.wrap(app.wsgi_app)  # the one line

if "SHOP_PROFILES" in os.environ:
    # append: every worker process of the server opens the same file.
    profilomatic.add_destination(profilomatic.file_destination(os.environ["SHOP_PROFILES"], append=True))
