"""Models of other frameworks as parameters, and back: one module for each framework, which imports it.

Import the module that fits, ``from hedgerow.frameworks.torch import load_parameters, parameters_of``; nothing else in Hedgerow
imports PyTorch, scikit-learn or XGBoost. All of them offer the same two functions: ``parameters_of(model)`` gives parameters that
are the caller's own, so that training on does not change them; ``load_parameters(model, parameters)`` checks them before it
changes the model, and takes what :class:`~hedgerow.client.NumPyClient` is handed, a list of arrays, as well.
"""
