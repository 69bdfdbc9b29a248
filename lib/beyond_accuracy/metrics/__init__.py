"""Pure functions of arrays, one module per question; none of them touches a model, a file or a global."""
