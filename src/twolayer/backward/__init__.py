"""How the network is differentiated: a file for each ``backward=``, each with the functions ``logits`` and ``loss``."""
