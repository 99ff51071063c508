"""How exact the library is on this machine: the error of every function against a wider type, beside the bound it keeps."""
