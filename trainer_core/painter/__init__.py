"""A small base model that is to paint what its prompt says, and all that it is made from.

Its pictures are drawn by a program, so that anybody can make it again: ``grammar`` has the scenes
and their captions, ``drawing`` their pictures, and ``recognition`` finds out what a picture shows.
"""
