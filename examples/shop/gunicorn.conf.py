"""gunicorn's settings for the shop: two processes with four threads each. SHOP_BIND may name another address."""

import os

wsgi_app = "shop:app"
chdir = os.path.dirname(os.path.abspath(__file__))
bind = os.environ.get("SHOP_BIND", "127.0.0.1:8000")
worker_class = "gthread"
workers = 2
threads = 4
keepalive = 5
graceful_timeout = 5
control_socket_disable = True  # gunicorn 25 and later would keep one in the home folder
