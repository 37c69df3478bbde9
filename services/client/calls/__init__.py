"""What can be asked of the service, one file a noun.

A call is described here once, under the id of its operation, and named in ``Client`` and in
``AsyncClient``.
"""
