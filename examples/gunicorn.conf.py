"""gunicorn's settings for flask_app.py, run from the folder above this one. The command line overrides them."""

wsgi_app = "examples.flask_app:create_app()"
bind = "127.0.0.1:8000"
preload_app = True  # the master loads the bundle before it forks: workers share its pages and start at once
workers = 2
worker_class = "gthread"  # threads may share a recommender, which releases the GIL while it ranks
threads = 4
keepalive = 1  # seconds that a connection may idle; so long does a worker that stops go on listening to it
graceful_timeout = 1  # seconds that a stop waits for requests that run, which take milliseconds
